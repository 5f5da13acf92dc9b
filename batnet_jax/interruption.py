"""SIGTERM, by which clusters and clouds announce that a machine goes away: save, then end.

Python runs a handler between two of its own instructions, so while XLA compiles it waits.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

STATUS = 128 + signal.SIGTERM  # the exit status, 143, as of a process that the signal ends


class Terminated(BaseException):
    """SIGTERM came; like KeyboardInterrupt nothing that handles errors should handle it."""


class Sigterm:
    """Raises `Terminated` when the signal comes, or only notes it while it is held."""

    def __init__(self) -> None:
        """Does nothing until `listen`."""
        self.wanted = False
        self._held = False

    @contextlib.contextmanager
    def listen(self) -> Iterator["Sigterm"]:
        """Within, SIGTERM raises `Terminated`. For the main thread."""
        before = signal.signal(signal.SIGTERM, self._handle)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)

    @contextlib.contextmanager
    def held(self, held: bool = True) -> Iterator[None]:
        """Within, it is only noted, in `wanted`; with held=False raised again."""
        before, self._held = self._held, held
        try:
            yield
        finally:
            self._held = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.wanted = True
        if not self._held:
            raise Terminated
