"""The best checkpoint of a run: the one with the highest mAP on identities held out of training."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orbax.checkpoint import checkpoint_managers as managers

from batnet_jax.workdir.gcs import write_whole

VALIDATION = "validation.json"


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
    known = read(workdir) | {step: sum(figures) / len(figures)}
    text = json.dumps({str(s): known[s] for s in sorted(known)}, indent=1)
    write_whole(workdir / VALIDATION, text + "\n")


def read(workdir: Path) -> dict[int, float]:
    """Return the mAP of each validated step; empty if no step was, or if the file is damaged."""
    try:
        figures = json.loads((workdir / VALIDATION).read_text())
        return {int(step): float(value) for step, value in figures.items()}
    except (OSError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return {}


def best(figures: Mapping[int, float], steps: Sequence[int], n: int = 1) -> list[int]:
    """Return the n best steps, the best first; of two equal steps the earlier is better.

    Args:
      figures: mAP by step, from `read`.
      steps: steps to choose from; a step without a figure is never chosen.
      n: the highest number of steps to return.
    """
    known = [step for step in steps if step in figures]
    return sorted(known, key=lambda step: (-figures[step], step))[:n]


@dataclass
class BestValidated:
    """A policy for Orbax that preserves the n best checkpoints of a workdir.

    Orbax's own `BestN` needs the figures when a checkpoint is saved. Our checkpoints are saved
    before the evaluation, so that a failed evaluation loses no steps.
    """

    workdir: Path
    n: int

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: managers.PreservationContext
    ) -> Sequence[bool]:
        """Return for each checkpoint whether to keep it."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        chosen = best(read(self.workdir), steps, self.n)
        return [step in chosen for step in steps]
