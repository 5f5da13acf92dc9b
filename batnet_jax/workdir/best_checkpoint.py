"""The best checkpoint of a run: the one with the highest mAP on identities held out of training."""

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batnet_jax.runtime.paths import exists
from batnet_jax.runtime.read_files import is_number, read_json
from batnet_jax.workdir.gcs import write_whole
from batnet_jax.workdir.results import read_whole_results, tell_left_out

VALIDATION = "validation.json"
_STEP = re.compile("[0-9]{1,18}")


def record(workdir: Path, step: int, results: Sequence[Mapping[str, Any]]) -> None:
    """Add a step's mAP to `validation.json`: the mean over the data sets with held-out identities.

    Args:
      workdir: of the run.
      step: steps taken.
      results: of an evaluation; only results of the split `val` are used.
    """
    figures = [result["mAP"] for result in results if result["split"] == "val"]
    if not figures:
        return
    known, damaged = _read(workdir)
    if damaged:
        tell_left_out([f"'{workdir / VALIDATION}' is damaged: eval/ tells what it has lost"])
    known[step] = statistics.fmean(figures)
    text = json.dumps({str(s): known[s] for s in sorted(known)}, indent=1)
    write_whole(workdir / VALIDATION, text + "\n")


def read(workdir: Path) -> dict[int, float]:
    """Return the mAP of each validated step; empty if no step was.

    If the file is damaged, lost figures are read from the evaluations in `eval/`.
    """
    return _read(workdir)[0]


def _read(workdir: Path) -> tuple[dict[int, float], bool]:
    """Return the figures of `read`, and whether the file is damaged."""
    path = workdir / VALIDATION
    if not exists(path):
        return {}, False
    try:
        given = read_json(path)
        figures = {int(step): share for step, share in given.items() if _STEP.fullmatch(step)}
        whole = {step: share for step, share in figures.items() if _is_share(share)}
        damaged = len(whole) < len(given)
    except (OSError, ValueError, AttributeError):
        whole, damaged = {}, True
    return (_read_evaluations(workdir) | whole if damaged else whole), damaged


def _read_evaluations(workdir: Path) -> dict[int, float]:
    """Return the figures that `record` wrote for each step, from the results that can be read."""
    found: dict[int, dict[str, float]] = {}
    for _, result in read_whole_results(workdir)[0]:
        if result["split"] == "val":
            found.setdefault(result["step"], {})[result["dataset"]] = result["mAP"]
    return {step: statistics.fmean(own.values()) for step, own in found.items()}


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def best(figures: Mapping[int, float], steps: Sequence[int], n: int = 1) -> list[int]:
    """Return the n best steps, the best first; of two equal steps the earlier is better.

    Args:
      figures: mAP by step, from `read`.
      steps: steps to choose from; a step without a figure is never chosen.
      n: the highest number of steps to return.
    """
    known = [step for step in steps if step in figures]
    return sorted(known, key=lambda step: (-figures[step], step))[:n]
