"""A run as comparisons read it: settings, an evaluation, its queries' figures, and curves."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from batnet_jax.config import default_config, flatten
from batnet_jax.errors import UserError, one_line
from batnet_jax.evaluation.query_figures import QueryFigures, read_query_figures
from batnet_jax.report.comparison import RunCurves
from batnet_jax.report.sections import title_of
from batnet_jax.runtime.paths import is_folder
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.metrics_log import METRICS, count_damaged, read_metrics
from batnet_jax.workdir.run_folder import CONFIG

_RESULT = re.compile(r"step_(\d+)(_.*)?\.json")
_COUNTS = ("step", "num_query", "num_valid_query", "num_gallery")
_PROTOCOL = ("dataset", "split", "ap", "same_camera", "leave_out_own")
_TEXTS = _PROTOCOL[:-1]


class EvaluatedRun(NamedTuple):
    """A run and one of its evaluations."""

    workdir: Path
    result: dict[str, Any]
    """The contents of `eval/step_<N>.json`."""
    queries: QueryFigures
    settings: dict[str, Any] | None
    """JSON values by dotted field names, with defaults for fields that the run is older than; None
    if the workdir holds no settings."""


def read_run(workdir: Path, *, test: str | None = None, step: int = 0) -> EvaluatedRun:
    """Read a run's latest evaluation.

    Args:
      workdir: of the run.
      test: the title of the test, see `title_of`; None = the first test of the run.
      step: the evaluation's; 0 = the latest.

    Raises: UserError if the run has no such evaluation, if a file is damaged or cannot be read, or
      if an older version has evaluated the run.
    """
    try:
        path, result = _find_result(workdir, test, step)
        settings = _read_settings(workdir, result["step"])
    except OSError as error:
        raise UserError(f"'{workdir}' cannot be read ({_reason(error)})") from error
    try:
        queries = read_query_figures(path.with_suffix(".npz"), result)
    except FileNotFoundError as error:
        raise UserError(
            f"'{workdir}' was evaluated by an older version, which kept no figures of each query:"
            f" evaluate step {result['step']} again, by --mode=eval with --workdir={workdir} and"
            " the run's --config"
        ) from error
    return EvaluatedRun(workdir, result, queries, settings)


def _find_result(workdir: Path, test: str | None, step: int) -> tuple[Path, dict[str, Any]]:
    """Return the .json of an evaluation, and its contents; see `read_run`."""
    if not is_folder(workdir):
        raise UserError(f"'{workdir}' is no folder: name the workdir of a run")
    files = [own for own in _list_results(workdir) if step in (0, own[0])]
    if not files:
        wanted = f" of step {step}" if step else ""
        raise UserError(
            f"'{workdir}' holds no evaluation{wanted}: evaluate it with --mode=eval first"
        )
    titles = []
    for number, path in files:
        if test is None and path.stem != f"step_{number}":
            continue
        result = _read_result(path)
        titles.append(title_of(result))
        if test in (None, titles[-1]):
            return path, result
    found = f": choose from {', '.join(dict.fromkeys(titles))}" if titles else ""
    raise UserError(f"'{workdir}' holds no evaluation on {test or 'a test set'}{found}")


def _list_results(workdir: Path) -> list[tuple[int, Path]]:
    """Return step and path of each result of a workdir, the latest first."""
    try:
        paths = list((workdir / "eval").iterdir())  # glob would not tell of a folder kept from us
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [(_RESULT.fullmatch(path.name), path) for path in paths]
    files = [(int(match[1]), path) for match, path in found if match]
    return sorted(files, key=lambda own: (-own[0], len(own[1].name), own[1].name))


def _read_result(path: Path) -> dict[str, Any]:
    """Read the .json of an evaluation.

    Raises: UserError if it is damaged.
    """
    try:
        result = json.loads(path.read_text())
        result.setdefault("split", "test")  # the first versions wrote neither of the two
        result.setdefault("same_camera", "remove")
        result.setdefault("leave_out_own", False)
        shares = [result["mAP"], result["mINP"], result["cmc"]["1"], *result["cmc"].values()]
        if not (
            all(isinstance(result[name], str) for name in _TEXTS)
            and isinstance(result["leave_out_own"], bool)
            and all(type(result[name]) is int for name in _COUNTS)
            and all(_is_number(share) and 0 <= share <= 1 for share in shares)
        ):
            raise ValueError("other values")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"'{path}' is damaged: evaluate the step again") from error
    return result


def _read_settings(workdir: Path, step: int) -> dict[str, Any] | None:
    """Read a run's settings from `config.json`, or else from the checkpoint that was evaluated.

    Raises: UserError if `config.json` is damaged.
    """
    path = workdir / CONFIG
    try:
        saved = flatten(json.loads(path.read_text()))
        if type(saved.get("seed", 0)) is not int:
            raise ValueError("no seed")
    except FileNotFoundError:  # an imported checkpoint
        saved = _read_checkpoint_settings(workdir, step)
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"'{path}' is damaged: restore it from a copy") from error
    return None if saved is None else flatten(json.loads(default_config().to_json())) | saved


def _read_checkpoint_settings(workdir: Path, step: int) -> dict[str, Any] | None:
    """Return the settings that a checkpoint has saved; None if it does not exist, or has none."""
    if step not in checkpoints.steps_of(workdir):
        return None
    saved = checkpoints.restore_metadata(workdir, step).get("config")
    return None if saved is None else flatten(saved)


def read_curves(workdir: Path, test: Mapping[str, Any]) -> tuple[RunCurves, list[str]]:
    """Read the learning curves of a run.

    Args:
      workdir: of the run.
      test: dataset, split, ap, same_camera and leave_out_own of the evaluations to read.

    Returns: the curves, and a message for each damaged file, whose damaged points are left out.
    """
    messages: list[str] = []
    lines = _attempt(lambda: read_metrics(workdir), messages) or []
    damaged = _attempt(lambda: count_damaged(workdir), []) or 0
    if damaged:
        lines_are = "line is" if damaged == 1 else "lines are"
        messages.append(f"'{workdir / METRICS}': {damaged} damaged {lines_are} left out")
    evaluations = {}
    for _, path in _attempt(lambda: _list_results(workdir), messages) or []:
        result = _attempt(lambda path=path: _read_result(path), messages)
        if result and all(result[name] == test.get(name, False) for name in _PROTOCOL):
            evaluations[result["step"]] = result
    results = [evaluations[step] for step in sorted(evaluations)]
    curves = RunCurves(
        _points(lines, "loss"),
        [(result["step"], result["mAP"]) for result in results],
        [(result["step"], result["cmc"]["1"]) for result in results],
    )
    return curves, messages


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Return the points of a figure; lines without the figure, or with NaN, give none."""
    return [
        (line["step"], line[name])
        for line in lines
        if _is_number(line["step"]) and _is_number(line.get(name))
    ]


def _attempt(read: Callable[[], Any], messages: list[str]) -> Any:
    """Call `read`; if it fails return None, and add a message to the list."""
    try:
        return read()
    except OSError as error:
        messages.append(f"'{error.filename}' cannot be read ({_reason(error)})")
    except UserError as error:
        messages.append(str(error))
    return None


def _reason(error: OSError) -> str:
    return error.strerror or one_line(error)


def _is_number(value: Any) -> bool:
    """Return whether a JSON value is a number that is neither NaN nor too large to draw."""
    return type(value) in (int, float) and abs(value) < 1e300
