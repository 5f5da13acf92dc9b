"""The flag `--accept` of `search`: the lowest score at which two images count as one person."""

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from batnet_jax.errors import UserError, printable
from batnet_jax.modes.import_weights import found_workdir
from batnet_jax.runtime.paths import is_file
from batnet_jax.runtime.read_files import is_number, read_json, reason
from batnet_jax.workdir import checkpoints

FORMS = "a score as 0.6 or score=0.6, or a false accept rate as far=0.001 or 0.1%"
_AMBIGUOUS = 0.1
"""A plain number up to this may be meant as a rate: few people choose so low a score."""


class Wanted(NamedTuple):
    """The request of `--accept`: a score or a rate; the other one is None."""

    score: float | None
    rate: float | None


def parse_accept(text: str) -> Wanted:
    """Parse the flag.

    Raises: UserError for another form, a number out of range, or a number that may be a score or a
      rate.
    """
    given = text.strip().lower()
    name, number, percent = "", given, given.endswith("%")
    if match := re.fullmatch(r"(score|far)\s*[=:]\s*(.*)", given):
        name, number = match.groups()
    try:
        value = float(number.removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        raise UserError(f"--accept={text} is no number: give {FORMS}") from None
    if name == "far" or (percent and name != "score"):
        if not 0 < value < 1:
            raise UserError(f"--accept={text}: a rate is between 0 and 1; give {FORMS}")
        return Wanted(None, value)
    if not -1 <= value <= 1:
        raise UserError(f"--accept={text}: a score is between -1 and 1; give {FORMS}")
    if not name and 0 < value <= _AMBIGUOUS:
        raise UserError(
            f"--accept={text} may be a score or a false accept rate: give score={number} or"
            f" far={number}"
        )
    return Wanted(value, None)


def threshold(wanted: Wanted, workdir: Path, step: int) -> float:
    """Return the lowest score to accept; look a rate up in the run's verification.

    A rate that the pairs were too few to measure gives a warning on stderr.

    Args:
      wanted: see `parse_accept`.
      workdir: a workdir, a checkpoint, or a file of weights, whose figures are in the workdir that
        its evaluation has made.
      step: of the model.

    Raises: UserError if the step has no figures of verification, or none for the rate.
    """
    if wanted.score is not None:
        return wanted.score
    folder, points = read_points(workdir, step)
    if not points:
        raise UserError(
            f"--accept: step {step} of '{folder}' has no thresholds: evaluate it with --mode=eval"
            f" --workdir={folder} --config.eval.step={step} --config.eval.verification=True, or"
            " give a score"
        )
    rate = wanted.rate or 0.0
    known = {float(point["wanted_false_accept_rate"]): point for point in points}
    found = next((own for own in known if abs(own - rate) <= 1e-9 * own), None)
    if found is None:
        rates = ", ".join(f"{own:g}" for own in sorted(known))
        raise UserError(f"--accept: the rate {rate:g} was not measured: give one of {rates}")
    if not known[found]["resolved"]:
        line = (
            f"warning: the test of '{folder}' has too few pairs of two people to measure the rate"
            f" {rate:g}; its threshold is a guess"
        )
        print(printable(line), file=sys.stderr)
    return float(known[found]["threshold"])


def read_points(workdir: Path, step: int) -> tuple[Path, list[dict[str, Any]]]:
    """Return a model's workdir, and the thresholds that its evaluation or its report measured.

    Args:
      workdir: see `threshold`.
      step: of the model.

    Raises: UserError if the file is damaged.
    """
    own = found_workdir(workdir) if is_file(workdir) else None
    folder, _ = checkpoints.locate(own or workdir)
    names = (f"eval/step_{step}.json", f"report/verification_step_{step}.json")
    found = (_read_points(folder / name) for name in names)
    return folder, next(filter(None, found), [])


def _read_points(path: Path) -> list[dict[str, Any]]:
    """Return the operating points of a file; none if the file or its figures are missing.

    Raises: UserError if the file is damaged.
    """
    try:
        points = read_json(path).get("verification", {}).get("operating_points", [])
        names = ("wanted_false_accept_rate", "threshold", "resolved")
        found = [{name: point[name] for name in names} for point in points]
        if not all(is_number(point[name]) for point in found for name in names[:2]):
            raise ValueError("no numbers")
        return found
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({reason(error)}): give a score") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is damaged: evaluate the step again") from error
