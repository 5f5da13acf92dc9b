"""Reads a run for a comparison: settings, an evaluation, the figures of its queries, and curves."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from batnet_jax.config import default_config, flatten
from batnet_jax.errors import UserError
from batnet_jax.evaluation.query_figures import QueryFigures, read_query_figures
from batnet_jax.report.comparison import RunCurves
from batnet_jax.report.sections import title_of
from batnet_jax.runtime.paths import is_folder
from batnet_jax.runtime.read_files import read_json, reason
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.metrics_log import read_whole_lines
from batnet_jax.workdir.results import (
    COUNTS,
    PROTOCOL,
    list_results,
    read_result,
    read_whole_results,
)
from batnet_jax.workdir.run_folder import CONFIG


class EvaluatedRun(NamedTuple):
    """A run and one of its evaluations."""

    workdir: Path
    result: dict[str, Any]
    """The contents of `eval/step_<N>.json`."""
    queries: QueryFigures
    settings: dict[str, Any] | None
    """JSON values by dotted field names, with defaults for fields that are newer than the run; None
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
        raise UserError(f"'{workdir}' cannot be read ({reason(error)})") from error
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
        raise UserError(f"'{workdir}' is not a folder: name the workdir of a run")
    files = [own for own in list_results(workdir) if step in (0, own[0])]
    if not files:
        wanted = f" of step {step}" if step else ""
        raise UserError(
            f"'{workdir}' holds no evaluation{wanted}: evaluate it with --mode=eval first"
        )
    titles, damaged = [], {}
    for number, path in files:
        if any(number < other for other in damaged):  # an earlier step is no substitute
            break
        if test is None and path.stem != f"step_{number}":
            continue
        try:
            result = read_result(path, ("dataset", "mINP", *COUNTS))
        except UserError as error:  # the test may be in another file of the step
            damaged[number] = error
            continue
        titles.append(title_of(result))
        if test in (None, titles[-1]):
            return path, result
    for error in damaged.values():
        raise error
    found = f": choose from {', '.join(dict.fromkeys(titles))}" if titles else ""
    raise UserError(f"'{workdir}' holds no evaluation on {test or 'a test set'}{found}")


def _read_settings(workdir: Path, step: int) -> dict[str, Any] | None:
    """Read a run's settings from `config.json`, or else from the checkpoint that was evaluated.

    Raises: UserError if `config.json` is damaged, and the checkpoint has no settings either.
    """
    path = workdir / CONFIG
    try:
        saved = flatten(read_json(path))
        if type(saved.get("seed", 0)) is not int:
            raise ValueError("no seed")
    except FileNotFoundError:  # an imported checkpoint
        saved = _read_checkpoint_settings(workdir, step)
    except (ValueError, AttributeError, RecursionError) as error:
        saved = _read_checkpoint_settings(workdir, step)
        if saved is None:
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
    lines, messages = read_whole_lines(workdir)
    found, more = read_whole_results(workdir)
    evaluations = {
        result["step"]: result
        for _, result in found
        if all(result[name] == test.get(name, False) for name in PROTOCOL)
    }
    results = [evaluations[step] for step in sorted(evaluations)]
    curves = RunCurves(
        [(line["step"], line["loss"]) for line in lines if "loss" in line],
        [(result["step"], result["mAP"]) for result in results],
        [(result["step"], result["cmc"]["1"]) for result in results],
    )
    return curves, [*messages, *more]
