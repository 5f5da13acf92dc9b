"""What a run leaves for people to follow: metrics.jsonl, TensorBoard events, the progress bar."""

import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from batnet_jax import hosts
from batnet_jax.bucket import Mirror

METRICS = "metrics.jsonl"


def progress_bar(total: int, *, description: str, unit: str = "image", initial: int = 0) -> tqdm:
    """A bar on stderr with rate and time left; a line now and then where that is no terminal.

    Of several processes, one has it.
    """
    seconds = 0.2 if sys.stderr.isatty() else 20
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        initial=initial,
        mininterval=seconds,
        maxinterval=seconds,
        dynamic_ncols=True,
        disable=not hosts.is_lead(),
    )


class Journal:
    """The figures of a run, continued after `step` if the workdir holds a run's."""

    def __init__(self, workdir: Path, step: int):
        """Opens the files.

        Args:
          workdir: of the run; exists.
          step: steps taken so far; figures of later ones, from a run that was killed, are dropped.
        """
        from tensorboardX import SummaryWriter  # imports PyTorch where that is installed

        self._mirror = Mirror(workdir, (METRICS,))
        path = self._mirror.folder / METRICS
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            path.write_text("".join(kept))
        self._file = path.open("a")
        self._events = SummaryWriter(str(self._mirror.folder / "tensorboard"), purge_step=step + 1)

    def write(self, figures: dict[str, Any]) -> None:
        """Adds a line; `figures` has `step` and numbers."""
        self._file.write(json.dumps(figures) + "\n")
        self._file.flush()
        for name, value in figures.items():
            if name != "step":
                self._events.add_scalar(f"train/{name}", value, figures["step"])

    def write_evaluation(self, result: dict[str, Any]) -> None:
        """Adds the main figures of an evaluation to the events."""
        place = f"{result['split']}/{result['dataset']}"
        for name, value in (("mAP", result["mAP"]), ("rank1", result["cmc"]["1"])):
            self._events.add_scalar(f"{place}/{name}", value, result["step"])

    def publish(self) -> None:
        """Copies the files to a workdir in a bucket; ahead of each checkpoint, which needs them."""
        self._events.flush()
        self._mirror.publish()

    def close(self) -> None:
        """Flushes and closes the files."""
        self._file.close()
        self._events.close()
        self._mirror.close()


class NoJournal:
    """In place of a `Journal`, in the processes that do not write."""

    def write(self, figures: dict[str, Any]) -> None:
        """See `Journal`."""

    def write_evaluation(self, result: dict[str, Any]) -> None:
        """See `Journal`."""

    def publish(self) -> None:
        """See `Journal`."""

    def close(self) -> None:
        """See `Journal`."""


def _step_of(line: str) -> float:
    """The step of a line; infinite if a kill cut the line off."""
    try:
        return json.loads(line)["step"] if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")
