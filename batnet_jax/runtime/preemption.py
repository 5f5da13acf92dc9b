"""SIGTERM, the signal by which clusters and clouds announce that they will stop a machine.

A run saves its state and ends. In a single process a signal handler raises `Terminated`. Python
runs a handler between two of its own instructions, so the handler waits while XLA compiles.

None of several processes may end alone, as the others would wait for it during a step. JAX's
preemption service receives their signals and agrees on a step after which all processes end.
"""

import contextlib
import itertools
import signal
from collections.abc import Iterator
from types import FrameType

from jax.experimental import multihost_utils

from batnet_jax.runtime import processes

STATUS = 128 + signal.SIGTERM  # 143, the exit status of a process that SIGTERM has ended


class Terminated(BaseException):
    """The arrival of SIGTERM. Like KeyboardInterrupt, this is not an error to handle."""


_questions = itertools.count()


def is_agreed() -> bool:
    """Return whether one of several processes has received SIGTERM and all must end now.

    All processes get the same answer if they call this equally often, as the service numbers the
    calls like steps. A call does not wait for other processes.
    """
    return not processes.alone() and multihost_utils.reached_preemption_sync_point(next(_questions))


class Sigterm:
    """A handler of SIGTERM that raises `Terminated`, at once or after it has been held back.

    Attributes:
      wanted: whether the signal has arrived.
    """

    def __init__(self) -> None:
        """Do nothing until `listen`."""
        self.wanted = False
        self._held = False

    @contextlib.contextmanager
    def listen(self) -> Iterator["Sigterm"]:
        """Raise `Terminated` when SIGTERM arrives within the context; for the main thread.

        A run of several processes has no handler; it calls `is_agreed` instead.
        """
        if not processes.alone():  # JAX has its own handler
            yield self
            return
        before = signal.signal(signal.SIGTERM, self._handle)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)

    @contextlib.contextmanager
    def held(self, held: bool = True) -> Iterator[None]:
        """Hold the signal back within the context: set `wanted` without raising `Terminated`.

        `held(False)` within such a context lets the signal raise again.
        """
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
