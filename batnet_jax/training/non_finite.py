"""The report on a loss or a parameter that became NaN or infinite: at which step, on which images.

The check comes before each save, so no checkpoint holds such a value.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from batnet_jax.errors import NotFiniteError
from batnet_jax.runtime import processes
from batnet_jax.workdir.gcs import write_whole

REPORT = "not_finite.json"
SHOWN = 3  # names of images in the message


class NonFiniteReport:
    """Writes `not_finite.json` and makes the error that ends the run."""

    def __init__(self, workdir: Path, filenames: Sequence[str], labels: np.ndarray):
        """Keep the names for a report; write nothing yet.

        Args:
          workdir: the folder of `not_finite.json`.
          filenames: of the n training images.
          labels: [n] int, of the same images.
        """
        self._path = workdir / REPORT
        self._filenames = filenames
        self._labels = labels

    def loss(self, step: int, figures: Mapping[str, float], row: np.ndarray) -> NotFiniteError:
        """Report a loss that is not finite.

        Args:
          step: the first step with such a loss.
          figures: the metrics of this step, as in metrics.jsonl.
          row: [b] int, indices of the batch's images.
        Returns: the error to raise.
        """
        return self._error(f"the loss is {figures['loss']} at step {step}", step, figures, row)

    def state(self, step: int, name: str, row: np.ndarray) -> NotFiniteError:
        """Report an array of the state that is not finite although every loss was.

        Args:
          step: the last step taken.
          name: of the array.
          row: [b] int, indices of the last batch's images.
        Returns: the error to raise.
        """
        return self._error(f"{name} is not finite after step {step}", step, {}, row)

    def _error(
        self, what: str, step: int, figures: Mapping[str, float], row: np.ndarray
    ) -> NotFiniteError:
        files = [self._filenames[i] for i in row]
        report = {
            "what": what,
            "step": step,
            "figures": {name: repr(value) for name, value in figures.items()},  # JSON has no NaN
            "labels": self._labels[row].tolist(),
            "files": files,
        }
        if processes.is_lead():
            write_whole(self._path, json.dumps(report, indent=1) + "\n")
        shown = ", ".join(f"'{name}'" for name in files[:SHOWN])
        return NotFiniteError(
            f"{what}, on the images {shown} and {len(files) - SHOWN} more ('{self._path}' names "
            "all): lower config.learning_rate, or look at the images; the last checkpoint is kept"
        )


def first_bad(tree: Any) -> str | None:
    """Return the name of the first host array with NaN or infinity, or None."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if np.issubdtype(leaf.dtype, np.inexact) and not np.isfinite(leaf).all():
            return jax.tree_util.keystr(path, simple=True, separator="/")
    return None
