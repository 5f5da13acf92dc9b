"""The steps between two lines of metrics.jsonl: mean metrics, and a check for NaN and infinity."""

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from batnet_jax.step.packing import unpack_state
from batnet_jax.step.train_step import TrainState
from batnet_jax.training.non_finite import NonFiniteReport, first_bad
from batnet_jax.training.run_length import RunLength


class Window:
    """The steps since the last line of metrics.jsonl.

    Metrics stay on the device until `close` or `check`, so that the loop need not wait for it.
    """

    def __init__(self, length: RunLength, batch_size: int, report: NonFiniteReport):
        """Start the clock.

        Args:
          length: of the run.
          batch_size: images a step.
          report: makes the error for a loss or a state that is not finite.
        """
        self._length = length
        self._batch_size = batch_size
        self._report = report
        self._waited = 0.0
        self._restart()

    def _restart(self) -> None:
        self._metrics: list[dict[str, jax.Array]] = []
        self._rows: list[np.ndarray] = []
        self._start = time.perf_counter()
        self._untimed, self._untimed_seconds = 0, 0.0

    def add(self, metrics: dict[str, jax.Array], row: np.ndarray) -> None:
        """Add a step: its metrics, on the device, and the indices of its images, [b] int."""
        self._metrics.append(metrics)
        self._rows.append(row)
        self._last_row = row

    def leave_out(self, seconds: float, wait_seconds: float) -> None:
        """Leave the steps so far out of the rate: the first one of a process compiles.

        If the window has no other steps, its rate is the rate of these.

        Args:
          seconds: the time that they took.
          wait_seconds: see `close`.
        """
        self._untimed, self._untimed_seconds = len(self._metrics), seconds
        self._waited = wait_seconds
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock within the context, for checkpoints and evaluations."""
        before = time.perf_counter()
        yield
        self._start += time.perf_counter() - before

    def close(self, step: int, wait_seconds: float) -> dict[str, Any]:
        """Return the window's mean metrics and start a new window.

        Args:
          step: steps taken.
          wait_seconds: time the loop has waited for data since its start.
        Returns: a line of metrics.jsonl: `step`, `epoch` (from 0), `loss`, `loss_ce`,
          `loss_triplet` (means), `lr` (of the last step), `images_per_second`, and `data_wait`,
          the share of the window's time spent waiting for data.
        Raises: NotFiniteError if a loss of the window is not finite.
        """
        taken = self.check(step)
        seconds, timed = time.perf_counter() - self._start, len(taken) - self._untimed
        if not timed:
            seconds, timed = self._untimed_seconds, len(taken)
        means = {name: float(np.mean([m[name] for m in taken])) for name in taken[0]}
        figures = {
            "step": step,
            "epoch": (step - 1) // self._length.steps_per_epoch,
            **means,
            "lr": float(taken[-1]["lr"]),
            "images_per_second": timed * self._batch_size / seconds,
            "data_wait": (wait_seconds - self._waited) / seconds,
        }
        self._waited = wait_seconds
        self._restart()
        return figures

    def check(self, step: int) -> list[dict[str, Any]]:
        """Wait for the window's steps and return their metrics.

        Args:
          step: the last step of the window.
        Raises: NotFiniteError if a loss of the window is not finite.
        """
        taken = jax.device_get(self._metrics)
        first = step - len(taken) + 1
        for number, metrics, row in zip(itertools.count(first), taken, self._rows, strict=False):
            if not np.isfinite(metrics["loss"]):
                figures = {name: float(value) for name, value in metrics.items()}
                raise self._report.loss(number, figures, row)
        return taken

    def fetch_finite(self, step: int, state: TrainState) -> TrainState:
        """Fetch a state from the device and check it, so that no checkpoint holds NaN or infinity.

        Args:
          step: the last step of the window.
          state: the state after this step, on the device.
        Returns: the state on the host, unpacked.
        Raises: NotFiniteError naming the first step that went wrong.
        """
        fetched = unpack_state(jax.device_get(state))
        if name := first_bad(fetched):
            self.check(step)
            raise self._report.state(step, name, self._last_row)
        return fetched
