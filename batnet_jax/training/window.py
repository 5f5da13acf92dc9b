"""The steps between two lines of metrics.jsonl: their means, and whether they are finite."""

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
from batnet_jax.training.run_length import Schedule


class Window:
    """The steps between two lines of metrics.jsonl; nothing waits for the device before `close`."""

    def __init__(self, schedule: Schedule, batch_size: int, suspects: NonFiniteReport):
        """Starts the clock.

        Args:
          schedule: of the run.
          batch_size: images a step.
          suspects: names the images if a loss is not finite.
        """
        self._schedule = schedule
        self._batch_size = batch_size
        self._suspects = suspects
        self._waited = 0.0
        self._restart()

    def _restart(self) -> None:
        self._metrics: list[dict[str, jax.Array]] = []
        self._rows: list[np.ndarray] = []
        self._start = time.perf_counter()

    def add(self, metrics: dict[str, jax.Array], row: np.ndarray) -> None:
        """Adds a step's metrics, still on the device, and the indices of its images."""
        self._metrics.append(metrics)
        self._rows.append(row)
        self._last_row = row

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent within (checkpoints, evaluation) does not count as training."""
        before = time.perf_counter()
        yield
        self._start += time.perf_counter() - before

    def close(self, step: int, wait_seconds: float) -> dict[str, Any]:
        """The window's means, and a new window.

        Args:
          step: steps taken.
          wait_seconds: that the loop has waited for data since its beginning.
        Returns: a line of metrics.jsonl: `step`, `epoch` (from 0), `loss`, `loss_ce`,
          `loss_triplet` (means), `lr` (the last), `images_per_second`, and `data_wait`, the share
          of the time that the loop waited for data.
        Raises: NotFiniteError if a loss of the window is not finite.
        """
        taken = self.check(step)
        seconds = time.perf_counter() - self._start
        means = {name: float(np.mean([m[name] for m in taken])) for name in taken[0]}
        figures = {
            "step": step,
            "epoch": (step - 1) // self._schedule.steps_per_epoch,
            **means,
            "lr": float(taken[-1]["lr"]),
            "images_per_second": len(taken) * self._batch_size / seconds,
            "data_wait": (wait_seconds - self._waited) / seconds,
        }
        self._waited = wait_seconds
        self._restart()
        return figures

    def check(self, step: int) -> list[dict[str, Any]]:
        """Waits for the window's steps, of which `step` is the last; returns their metrics.

        Raises: NotFiniteError if a loss of the window is not finite.
        """
        taken = jax.device_get(self._metrics)
        first = step - len(taken) + 1
        for number, metrics, row in zip(itertools.count(first), taken, self._rows, strict=False):
            if not np.isfinite(metrics["loss"]):
                figures = {name: float(value) for name, value in metrics.items()}
                raise self._suspects.loss(number, figures, row)
        return taken

    def sound(self, step: int, state: TrainState) -> TrainState:
        """Fetches a state to save it, so that a checkpoint never holds NaN or infinity.

        Args:
          step: the last of the window.
          state: after it, on the device.
        Returns: the state on the host, not packed.
        Raises: NotFiniteError naming the first step that went wrong.
        """
        fetched = unpack_state(jax.device_get(state))
        if name := first_bad(fetched):
            self.check(step)
            raise self._suspects.state(step, name, self._last_row)
        return fetched
