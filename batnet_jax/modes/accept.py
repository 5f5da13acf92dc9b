"""The flag `--accept` of `search` and `serve`: the lowest score of a hit."""

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from batnet_jax.errors import UserError, printable
from batnet_jax.modes.import_weights import found_workdir
from batnet_jax.runtime.paths import is_file
from batnet_jax.runtime.read_files import is_number, read_json, reason
from batnet_jax.workdir import checkpoints

FORMS = (
    "a score as 0.6 or score=0.6, a false accept rate of pairs as far=0.001 or 0.1%, or a false"
    " alarm rate of queries as alarm=0.01"
)
_AMBIGUOUS = 0.1
"""A plain number up to this may be meant as a rate: few people choose so low a score."""


class Wanted(NamedTuple):
    """The request of `--accept`: a score or one of the rates; the others are None."""

    score: float | None
    rate: float | None
    """The share of pairs of two people that are accepted."""
    alarm: float | None = None
    """The share of queries of unknown people for which anything is accepted."""


def parse_accept(text: str) -> Wanted:
    """Parse the flag.

    Raises: UserError for another form, a number out of range, or a number that may be a score or a
      rate.
    """
    given = text.strip().lower()
    name, number, percent = "", given, given.endswith("%")
    if match := re.fullmatch(r"(score|far|alarm)\s*[=:]\s*(.*)", given):
        name, number = match.groups()
    try:
        value = float(number.removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        raise UserError(f"--accept={text} is not a number: give {FORMS}") from None
    if name in ("far", "alarm") or (percent and name != "score"):
        if not 0 < value < 1:
            raise UserError(f"--accept={text}: a rate is between 0 and 1; give {FORMS}")
        return Wanted(None, None, value) if name == "alarm" else Wanted(None, value)
    if not -1 <= value <= 1:
        raise UserError(f"--accept={text}: a score is between -1 and 1; give {FORMS}")
    if not name and 0 < value <= _AMBIGUOUS:
        raise UserError(
            f"--accept={text} may be a score or a false accept rate: give score={number} or"
            f" far={number}"
        )
    return Wanted(value, None)


def threshold(wanted: Wanted, workdir: Path, step: int, gallery: int = 0) -> float:
    """Return the lowest score to accept; look a rate up in the run's evaluation.

    Warns on stderr if the test had too few pairs or queries to measure the rate, or if a false
    alarm rate was measured with a smaller gallery.

    Args:
      wanted: see `parse_accept`.
      workdir: a workdir, a checkpoint, or a file of weights; the figures of such a file are in the
        workdir that its evaluation made.
      step: of the model.
      gallery: the number of images that are searched; 0 = unknown.

    Raises: UserError if the step has no figures of verification or of the open set, or none for
      the rate.
    """
    if wanted.score is not None:
        return wanted.score
    if wanted.alarm is not None:
        return _alarm_threshold(wanted.alarm, workdir, step, gallery)
    folder, points = read_points(workdir, step)
    if not points:
        raise UserError(
            f"--accept: step {step} of '{folder}' has no thresholds: evaluate it with --mode=eval"
            f" --workdir={folder} --config.eval.step={step} --config.eval.verification=True, or"
            " give a score"
        )
    rate = wanted.rate or 0.0
    point = _find_point(points, "wanted_false_accept_rate", rate)
    if not point["resolved"]:
        line = (
            f"warning: the test of '{folder}' has too few pairs of two people to measure the rate"
            f" {rate:g}, fewer than {1 / rate:,.0f}; its threshold is a guess"
        )
        print(printable(line), file=sys.stderr)
    return float(point["threshold"])


def _alarm_threshold(rate: float, workdir: Path, step: int, gallery: int) -> float:
    """Return the lowest score to accept at a false alarm rate; see `threshold`."""
    folder, paths = _files(workdir, step)
    found = next(filter(None, (_read_points(path, _OPEN_SET) for path in paths)), [])
    if not found:
        raise UserError(
            f"--accept: step {step} of '{folder}' has no false alarm rates: evaluate it with"
            f" --mode=eval --workdir={folder} --config.eval.step={step}"
            " --config.eval.open_set=True, or give a score"
        )
    point = _find_point(found, _OPEN_SET.rate, rate)
    lines = []
    if not point["resolved"]:
        lines.append(
            f"warning: the test of '{folder}' has fewer than {1 / rate:,.0f} queries without mates,"
            f" too few to measure the rate {rate:g}; its threshold is a guess"
        )
    if gallery > point["total"]:
        lines.append(
            f"warning: --accept: the rate {rate:g} was measured with {point['total']:,.0f} gallery"
            f" images; among {gallery:,} more queries raise an alarm"
        )
    for line in lines:
        print(printable(line), file=sys.stderr)
    return float(point["threshold"])


def _find_point(points: list[dict[str, Any]], name: str, rate: float) -> dict[str, Any]:
    """Return the operating point of a rate.

    Raises: UserError if the rate was not measured.
    """
    known = {float(point[name]): point for point in points}
    found = next((own for own in known if abs(own - rate) <= 1e-9 * own), None)
    if found is None:
        below = max((own for own in known if own < rate), default=None)
        above = min((own for own in known if own > rate), default=None)
        near = " and ".join(f"{own:g}" for own in (below, above) if own is not None)
        rates = ", ".join(f"{own:g}" for own in sorted(known))
        raise UserError(
            f"--accept: the rate {rate:g} was not measured (nearest: {near}): give one of {rates}, "
            "or a score"
        )
    return known[found]


def read_points(workdir: Path, step: int) -> tuple[Path, list[dict[str, Any]]]:
    """Return a model's workdir, and the thresholds that its evaluation or its report measured.

    Args:
      workdir: see `threshold`.
      step: of the model.

    Raises: UserError if the file is damaged.
    """
    folder, paths = _files(workdir, step)
    found = (_read_points(path, _VERIFICATION) for path in paths)
    return folder, next(filter(None, found), [])


class _Kind(NamedTuple):
    """Figures that have operating points, by their names in a file of an evaluation."""

    name: str
    rate: str
    total: str
    """The name of the number of pairs, or of gallery images, in the measurement."""


_VERIFICATION = _Kind("verification", "wanted_false_accept_rate", "num_negative")
_OPEN_SET = _Kind("open_set", "wanted_false_alarm_rate", "num_gallery")


def _files(workdir: Path, step: int) -> tuple[Path, list[Path]]:
    """Return a model's workdir, and the files of its evaluation and of its report."""
    own = found_workdir(workdir) if is_file(workdir) else None
    folder, _ = checkpoints.locate(own or workdir)
    names = (f"eval/step_{step}.json", f"report/verification_step_{step}.json")
    return folder, [folder / name for name in names]


def _read_points(path: Path, kind: _Kind) -> list[dict[str, Any]]:
    """Return the operating points of a file; none if the file or its figures are missing.

    Each has its rate, `threshold`, `resolved` and `total`.

    Raises: UserError if the file is damaged.
    """
    try:
        figures = read_json(path).get(kind.name, {})
        total = figures.get(kind.total, 0)
        names = (kind.rate, "threshold", "resolved")
        points = figures.get("operating_points", [])
        found = [{name: point[name] for name in names} | {"total": total} for point in points]
        numbers = (kind.rate, "threshold", "total")
        if not all(is_number(point[name]) for point in found for name in numbers):
            raise ValueError("no numbers")
        return found
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({reason(error)}): give a score") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is damaged: evaluate the step again") from error
