"""What a run leaves for people to follow: metrics.jsonl, TensorBoard events, the progress bar."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from batnet_jax import hosts
from batnet_jax.bucket import Mirror
from batnet_jax.events import Events

METRICS = "metrics.jsonl"


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of a run's `metrics.jsonl`, without one that a kill has cut off; none if none."""
    path = workdir / METRICS
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if _step_of(line) < float("inf")]


def progress_bar(
    total: int, *, description: str, unit: str = "image", initial: int = 0, delay: float = 0
) -> tqdm:
    """A bar on stderr with rate and time left; a line now and then where that is no terminal.

    Of several processes, one has it.

    Args:
      total: of units.
      description: what is done.
      unit: what is counted.
      initial: units done before.
      delay: seconds to wait before anything is shown.
    """
    seconds = 0.2 if sys.stderr.isatty() else 20
    bar = tqdm(
        total=total,
        desc=description,
        unit=unit,
        initial=initial,
        mininterval=seconds,
        maxinterval=seconds,
        delay=delay,
        dynamic_ncols=True,
        disable=not hosts.is_lead(),
    )
    # tqdm's clock is the system's, which may jump: back, and the bar stands still for as long.
    bar._time = time.monotonic  # type: ignore[misc]
    bar.start_t = bar.last_print_t = time.monotonic()
    return bar


@contextlib.contextmanager
def counting_bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that starts with its first call: yields a function of (done, in all)."""
    with progress_bar(0, description=description, unit=unit) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


class Journal:
    """The figures of a run, continued after `step` if the workdir holds a run's."""

    def __init__(self, workdir: Path, step: int):
        """Opens the files.

        Args:
          workdir: of the run; exists.
          step: steps taken so far; figures of later ones, from a run that was killed, are dropped.
        """
        self._mirror = Mirror(workdir, (METRICS,))
        path = self._mirror.folder / METRICS
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            partial = path.with_name(f"{METRICS}.partial")
            partial.write_text("".join(kept))
            partial.replace(path)
        self._file = path.open("a")
        self._events = Events(self._mirror.folder / "tensorboard", step)

    def write(self, figures: dict[str, Any]) -> None:
        """Adds a line; `figures` has `step` and numbers."""
        self._file.write(json.dumps(figures) + "\n")
        self._file.flush()
        for name, value in figures.items():
            if name != "step":
                self._events.scalar(f"train/{name}", value, figures["step"])

    def write_evaluation(self, result: dict[str, Any]) -> None:
        """Adds the main figures of an evaluation to the events."""
        place = f"{result['split']}/{result['dataset']}"
        for name, value in (("mAP", result["mAP"]), ("rank1", result["cmc"]["1"])):
            self._events.scalar(f"{place}/{name}", value, result["step"])

    def publish(self) -> None:
        """Copies the files to a workdir in a bucket; ahead of each checkpoint, which needs them."""
        self._mirror.publish()

    def close(self) -> None:
        """Closes the files."""
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
    except (ValueError, KeyError, TypeError, RecursionError):
        return float("inf")
