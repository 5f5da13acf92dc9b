"""The progress of a training run on the terminal: one line while it compiles, then a bar."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from batnet_jax.runtime.progress import Bar, progress_bar
from batnet_jax.training.run_length import RunLength

LAYOUT = "step {n_fmt}/{total_fmt} |{bar}| {remaining} left{postfix}"
"""tqdm's `bar_format` on a terminal."""


class TrainingProgress:
    """The bar of a run, which appears after the first step: its clock leaves out compiling."""

    def __init__(self, length: RunLength, *, mean_ap: float | None = None):
        """Show nothing yet.

        Args:
          length: of the run.
          mean_ap: of the run's last evaluation, in an earlier process; None = no evaluation.
        """
        self._length = length
        self._bar: Bar | None = None
        self._figures: Mapping[str, Any] = {}
        self._mean_ap = mean_ap

    def after_step(self, step: int, figures: Mapping[str, Any] | None = None) -> None:
        """Advance the bar.

        Args:
          step: steps taken.
          figures: `lr`, `loss` and, unless unknown, `images_per_second`; None = as before.
        """
        self._figures = figures or self._figures
        if self._bar is None:
            total = self._length.total
            self._bar = progress_bar(
                total, description="train", unit="step", initial=step, layout=LAYOUT
            )
        self._bar.note(self.note(step))
        self._bar.update(step - self._bar.n)

    def evaluated(self, mean_ap: float) -> None:
        """Show the mAP of an evaluation from now on."""
        self._mean_ap = mean_ap

    def note(self, step: int) -> str:
        """Return the text behind the steps and the time."""
        epoch = (step - 1) // self._length.steps_per_epoch + 1
        epochs = -(-self._length.total // self._length.steps_per_epoch)
        words = [f"epoch {epoch}/{epochs}"]
        if self._figures:
            words += [f"lr {self._figures['lr']:.2g}", f"loss {self._figures['loss']:.3f}"]
        if "images_per_second" in self._figures:
            rate = self._figures["images_per_second"]
            words.append(f"{rate:,.0f} images/s" if rate >= 10 else f"{rate:.2g} images/s")
        if self._mean_ap is not None:
            words.append(f"mAP {100 * self._mean_ap:.1f}%")
        return ", ".join(words)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the bar's clock within the context, for checkpoints and evaluations."""
        with self._bar.paused() if self._bar else contextlib.nullcontext():
            yield

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> "TrainingProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
