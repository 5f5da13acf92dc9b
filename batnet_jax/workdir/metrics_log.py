"""The figures of a run: metrics.jsonl and TensorBoard's event files."""

import json
from pathlib import Path
from typing import Any

from batnet_jax.runtime.atomic_write import write_atomically
from batnet_jax.runtime.paths import exists
from batnet_jax.workdir.gcs import Mirror
from batnet_jax.workdir.tensorboard import Events

METRICS = "metrics.jsonl"


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """Read the lines of a run's `metrics.jsonl`, except damaged ones.

    Returns: the lines; empty if the file does not exist.
    """
    lines = _read_lines(workdir / METRICS)
    return [json.loads(line) for line in lines if _step_of(line) < float("inf")]


def count_damaged(workdir: Path) -> int:
    """Count the lines that `read_metrics` leaves out, without a last line that a kill cut off."""
    lines = _read_lines(workdir / METRICS)
    return sum(line.endswith("\n") and _step_of(line) == float("inf") for line in lines)


class MetricsLog:
    """Writes the figures of a run; continues the files of an earlier process."""

    def __init__(self, workdir: Path, step: int):
        """Open the files.

        Args:
          workdir: of the run; exists.
          step: steps taken so far. Lines of later steps, which a killed process took without
            saving a checkpoint, are removed.
        """
        self._mirror = Mirror(workdir, (METRICS,))
        path = self._mirror.folder / METRICS
        lines = _read_lines(path)
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            write_atomically(path, "".join(kept))
        self._file = path.open("a")
        self._events = Events(self._mirror.folder / "tensorboard", step)

    def write(self, figures: dict[str, Any]) -> None:
        """Write a line with `step` and numbers."""
        self._file.write(json.dumps(figures) + "\n")
        self._file.flush()
        for name, value in figures.items():
            if name != "step":
                self._events.scalar(f"train/{name}", value, figures["step"])

    def write_evaluation(self, result: dict[str, Any]) -> None:
        """Write the main figures of an evaluation to TensorBoard's file."""
        place = f"{result['split']}/{result['dataset']}"
        for name, value in (("mAP", result["mAP"]), ("rank1", result["cmc"]["1"])):
            self._events.scalar(f"{place}/{name}", value, result["step"])

    def publish(self) -> None:
        """Copy the files to a workdir in a bucket.

        This comes before each checkpoint, so that no resumed run lacks lines of earlier steps.
        """
        self._mirror.publish()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._events.close()
        self._mirror.close()


class NoMetricsLog:
    """Takes the place of a `MetricsLog` in the processes that do not write."""

    def write(self, figures: dict[str, Any]) -> None:
        """See `MetricsLog`."""

    def write_evaluation(self, result: dict[str, Any]) -> None:
        """See `MetricsLog`."""

    def publish(self) -> None:
        """See `MetricsLog`."""

    def close(self) -> None:
        """See `MetricsLog`."""


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a file, with their ends; bytes that are no text become U+FFFD."""
    text = path.read_bytes().decode(errors="replace") if exists(path) else ""
    return text.splitlines(keepends=True)


def _step_of(line: str) -> float:
    """Return the step of a line, or infinity for a line that is damaged or cut off by a kill."""
    try:
        step = json.loads(line)["step"] if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError, RecursionError):
        return float("inf")
    return step if isinstance(step, int | float) and step == step else float("inf")
