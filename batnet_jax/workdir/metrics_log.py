"""The figures of a run: metrics.jsonl and TensorBoard's event files."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from batnet_jax.errors import UserError, printable
from batnet_jax.runtime.atomic_write import write_atomically
from batnet_jax.runtime.paths import exists
from batnet_jax.runtime.read_files import is_number, read_bytes, reason
from batnet_jax.workdir.gcs import Mirror
from batnet_jax.workdir.tensorboard import Events

METRICS = "metrics.jsonl"


def read_whole_lines(workdir: Path) -> tuple[list[dict[str, float]], list[str]]:
    """Read the lines of a run's `metrics.jsonl`, except damaged ones.

    A line is whole if it is an object of finite numbers with a `step`. A last line that a kill cut
    off does not count as damage.

    Returns: the lines, none if the file does not exist; and a message if lines are left out, or
      the file cannot be read.
    """
    path = workdir / METRICS
    try:
        lines = _read_lines(path)
    except OSError as error:
        return [], [f"'{path}' cannot be read ({reason(error)})"]
    found = [_parse(line) for line in lines if line.endswith("\n")]
    whole = [line for line in found if line and all(map(is_number, line.values()))]
    damaged = len(found) - len(whole)
    are = "line is" if damaged == 1 else "lines are"
    return whole, [f"'{path}': {damaged} damaged {are} left out"] if damaged else []


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """Read the lines of a run's `metrics.jsonl` that `read_whole_lines` does not leave out."""
    return read_whole_lines(workdir)[0]


class MetricsLog:
    """Writes the figures of a run; continues the files of an earlier process."""

    def __init__(self, workdir: Path, step: int):
        """Open the files.

        Args:
          workdir: of the run; exists.
          step: steps taken so far. Lines of later steps, which a killed process took without
            saving a checkpoint, are removed. Damaged lines are removed, too, and counted on stderr.

        Raises: UserError if `metrics.jsonl` is there and cannot be read.
        """
        self._mirror = Mirror(workdir, (METRICS,))
        path = self._mirror.folder / METRICS
        try:
            lines = _read_lines(path)
        except OSError as error:
            raise UserError(
                f"'{path}' cannot be read ({reason(error)}): move it away, and the same command "
                "resumes the run"
            ) from error
        kept = [line for line in lines if _step_of(line) <= step]
        damaged = sum(_parse(line) is None for line in lines if line.endswith("\n"))
        if damaged:
            are = "line is" if damaged == 1 else "lines are"
            line = f"warning: '{path}': {damaged} damaged {are} removed"
            print(printable(line), file=sys.stderr)
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

        This comes before each checkpoint, so that no resumed run lacks lines of earlier steps. In a
        folder the lines are forced to the disk, for a machine that loses its power.
        """
        os.fsync(self._file.fileno())
        self._mirror.publish()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._events.close()
        self._mirror.close()


class NoMetricsLog:
    """Replaces the `MetricsLog` in processes that do not write."""

    def write(self, figures: dict[str, Any]) -> None:
        """See `MetricsLog`."""

    def write_evaluation(self, result: dict[str, Any]) -> None:
        """See `MetricsLog`."""

    def publish(self) -> None:
        """See `MetricsLog`."""

    def close(self) -> None:
        """See `MetricsLog`."""


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a file, with their ends; bytes that are not text become U+FFFD.

    Raises: OSError if the file exists and cannot be read.
    """
    text = read_bytes(path).decode(errors="replace") if exists(path) else ""
    return text.splitlines(keepends=True)


def _parse(line: str) -> dict[str, Any] | None:
    """Return the object in a line; None if the line is damaged, or was cut off by a kill."""
    try:
        found = json.loads(line) if line.endswith("\n") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and is_number(found.get("step")) else None


def _step_of(line: str) -> float:
    """Return the step of a line, or infinity for a line that is damaged or cut off by a kill."""
    found = _parse(line)
    return math.inf if found is None else found["step"]
