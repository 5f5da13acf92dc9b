"""NaN and infinity: found before they are saved, and traced to a step and its images."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from batnet_jax.errors import NotFiniteError
from batnet_jax.runtime import processes

REPORT = "not_finite.json"
SHOWN = 3


class NonFiniteReport:
    """Says which images a run saw when it went wrong."""

    def __init__(self, workdir: Path, filenames: Sequence[str], labels: np.ndarray):
        """Writes nothing yet.

        Args:
          workdir: where `not_finite.json` goes.
          filenames: of the n training images.
          labels: [n] int, theirs.
        """
        self._path = workdir / REPORT
        self._filenames = filenames
        self._labels = labels

    def loss(self, step: int, figures: Mapping[str, float], row: np.ndarray) -> NotFiniteError:
        """The error for a loss that is not finite.

        Args:
          step: the first whose loss is not.
          figures: of that step, as in metrics.jsonl.
          row: [b] int, the images of its batch.
        """
        return self._error(f"the loss is {figures['loss']} at step {step}", step, figures, row)

    def state(self, step: int, name: str, row: np.ndarray) -> NotFiniteError:
        """The error for an array of the state that is not finite after losses that all were.

        Args:
          step: the last one.
          name: of the array.
          row: [b] int, the images of that step's batch.
        """
        return self._error(f"{name} is not finite after step {step}", step, {}, row)

    def _error(
        self, what: str, step: int, figures: Mapping[str, float], row: np.ndarray
    ) -> NotFiniteError:
        files = [self._filenames[i] for i in row]
        report = {
            "what": what,
            "step": step,
            "figures": {name: repr(value) for name, value in figures.items()},  # NaN is no JSON
            "labels": self._labels[row].tolist(),
            "files": files,
        }
        if processes.is_lead():
            self._path.write_text(json.dumps(report, indent=1) + "\n")
        shown = ", ".join(f"'{name}'" for name in files[:SHOWN])
        return NotFiniteError(
            f"{what}, on the images {shown} and {len(files) - SHOWN} more ('{self._path}' names "
            "all): lower config.learning_rate, or look at the images; the last checkpoint is kept"
        )


def first_bad(tree: Any) -> str | None:
    """The name of the first array on the host that holds NaN or infinity; None if none does."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if np.issubdtype(leaf.dtype, np.inexact) and not np.isfinite(leaf).all():
            return jax.tree_util.keystr(path, simple=True, separator="/")
    return None
