"""A trace of a few training steps, for TensorBoard (with its profile plugin) or Perfetto."""

from pathlib import Path

import jax

SKIPPED = 5  # steps before: they compile, and fill the caches
TRACED = 3


class StepTrace:
    """Traces the steps `first` + 6 to `first` + 8, or fewer where the run ends."""

    def __init__(self, folder: Path, first: int) -> None:
        """Starts nothing yet.

        Args:
          folder: where `plugins/profile/<time>/` is made, with an .xplane.pb and a Perfetto file.
          first: steps taken before.
        """
        self._folder = folder
        self._start = first + SKIPPED
        self._running = False

    def after(self, step: int) -> None:
        """To be called when `step` has been taken."""
        if step == self._start:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._running = True
        elif step == self._start + TRACED:
            self.stop()

    def stop(self) -> None:
        """Writes what has been traced."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            print(f"trace of {TRACED} steps or fewer in '{self._folder}': open it in TensorBoard")
