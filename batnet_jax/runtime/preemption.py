"""SIGTERM, by which clusters and clouds announce that a machine goes away: save, then end.

Python runs a handler between two of its own instructions, so while XLA compiles it waits.

Of several processes none may end alone, for the others would wait for it in the middle of a step.
There JAX's preemption service hears the signal, and settles after which step all of them end.
"""

import contextlib
import itertools
import signal
from collections.abc import Iterator
from types import FrameType

from jax.experimental import multihost_utils

from batnet_jax.runtime import processes

STATUS = 128 + signal.SIGTERM  # the exit status, 143, as of a process that the signal ends


class Terminated(BaseException):
    """SIGTERM came; like KeyboardInterrupt nothing that handles errors should handle it."""


_questions = itertools.count()


def is_agreed() -> bool:
    """Whether SIGTERM has come to one of several processes; all get the same answer.

    All must ask equally often: the service counts the questions, as others count steps. Whoever
    asks waits for nothing.
    """
    return not processes.alone() and multihost_utils.reached_preemption_sync_point(next(_questions))


class Sigterm:
    """Raises `Terminated` when the signal comes, or only notes it while it is held."""

    def __init__(self) -> None:
        """Does nothing until `listen`."""
        self.wanted = False
        self._held = False

    @contextlib.contextmanager
    def listen(self) -> Iterator["Sigterm"]:
        """Within, SIGTERM raises `Terminated`. For the main thread; alone, see `is_agreed`."""
        if not processes.alone():  # the handler is JAX's
            yield self
            return
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
