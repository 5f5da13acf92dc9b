"""A trace of a few training steps, for TensorBoard (with its profile plugin) or Perfetto."""

from pathlib import Path

import jax

from batnet_jax.errors import printable

SKIPPED = 5  # steps before the trace: the first compiles, the next fill the caches
TRACED = 3


class StepTrace:
    """A trace of steps `first` + 6 to `first` + 8, or of fewer if the run ends before."""

    def __init__(self, folder: Path, first: int, *, enabled: bool) -> None:
        """Prepare the trace; start nothing yet.

        Args:
          folder: receives `plugins/profile/<time>/` with an .xplane.pb and a Perfetto file.
          first: steps taken before.
          enabled: False to trace nothing.
        """
        self._folder = folder
        self._start = first + SKIPPED
        self._enabled = enabled
        self._running = False

    def after(self, step: int) -> None:
        """Start or stop the trace if due; call this after each step."""
        if self._enabled and step == self._start:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._running = True
        elif step == self._start + TRACED:
            self.stop()

    def stop(self) -> None:
        """Write the trace, if one is running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            line = f"trace of {TRACED} steps or fewer in '{self._folder}': open it in TensorBoard"
            print(printable(line))
