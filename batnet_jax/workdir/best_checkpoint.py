"""Which checkpoint is the best: by the mAP on identities held out of training."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orbax.checkpoint import checkpoint_managers as managers

from batnet_jax.workdir.gcs import write_whole

VALIDATION = "validation.json"


def record(workdir: Path, step: int, results: Sequence[Mapping[str, Any]]) -> None:
    """Adds a step's mAP to `validation.json`, the mean over the data sets with held-out identities.

    Args:
      workdir: of the run.
      step: steps taken.
      results: of an evaluation; those that are no validation are passed over.
    """
    figures = [result["mAP"] for result in results if result["split"] == "val"]
    if not figures:
        return
    known = read(workdir) | {step: sum(figures) / len(figures)}
    text = json.dumps({str(s): known[s] for s in sorted(known)}, indent=1)
    write_whole(workdir / VALIDATION, text + "\n")


def read(workdir: Path) -> dict[int, float]:
    """The mAP of each step that was validated; empty if none was, or the file is damaged."""
    try:
        figures = json.loads((workdir / VALIDATION).read_text())
        return {int(step): float(value) for step, value in figures.items()}
    except (OSError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return {}


def best(figures: Mapping[int, float], steps: Sequence[int], n: int = 1) -> list[int]:
    """The n best of some steps, the best first; of equals the earlier.

    Args:
      figures: of steps, as `read` returns them.
      steps: to choose from; those without a figure are never chosen.
      n: so many at most.
    """
    known = [step for step in steps if step in figures]
    return sorted(known, key=lambda step: (-figures[step], step))[:n]


@dataclass
class BestValidated:
    """Preserves the n best checkpoints of a workdir.

    Orbax's own `BestN` wants the figures when a checkpoint is saved. Here a checkpoint comes
    before the evaluation, so that nothing is lost if that fails.
    """

    workdir: Path
    n: int

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: managers.PreservationContext
    ) -> Sequence[bool]:
        """For each checkpoint whether it stays."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        chosen = best(read(self.workdir), steps, self.n)
        return [step in chosen for step in steps]
