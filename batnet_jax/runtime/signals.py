"""Handles SIGINT, SIGTERM and SIGHUP: each ends a command with a line and its own exit status.

Ctrl-C sends SIGINT, clusters and clouds send SIGTERM before they stop a machine, and a terminal or
an ssh connection that ends sends SIGHUP. A signal that the command's parent lets it ignore stays
ignored, as SIGHUP does under nohup.

While a command imports its packages and reads its arguments, no work can be lost, and an `except`
of another package could catch an exception: the process ends at once. While the command works, the
handler raises `Terminated`, so that files are completed or removed. Python runs a handler between
two of its own instructions, so a signal waits while XLA compiles.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "hung up",
}
"""The signals, and the first word of the line that each prints."""
SWALLOWED_SECONDS = 0.05
_arrived: list[int] = []
"""The first signal of this command."""


class Terminated(KeyboardInterrupt):
    """The arrival of a signal. This is not an error to handle.

    Attributes:
      number: of the signal.
    """

    def __init__(self, number: int = signal.SIGTERM):
        super().__init__()
        self.number = signal.Signals(number)

    @property
    def status(self) -> int:
        """The exit status of the process, as shells count it."""
        return 128 + self.number

    @property
    def word(self) -> str:
        """What has happened to the process."""
        return WORDS[self.number]


def heard() -> list[signal.Signals]:
    """Return the signals that the process does not ignore."""
    return [number for number in WORDS if signal.getsignal(number) is not signal.SIG_IGN]


def end_on_signals() -> None:
    """End the process at once when a signal arrives, until `Signals.listen`."""
    for number in heard():
        signal.signal(number, _end_unless_again)


def ignore_signals() -> None:
    """Ignore signals from now on, because the command has ended and its status is decided."""
    for number in heard():
        signal.signal(number, signal.SIG_IGN)


def end_at_once(number: int, *_: Any) -> NoReturn:
    """End the process with the line and the status of a signal, and do nothing else."""
    with contextlib.suppress(OSError):
        os.write(2, f"{WORDS[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)


def _end_unless_again(number: int, frame: FrameType | None) -> None:
    """End the process at once, unless it is ending already and the signal is not Ctrl-C."""
    if number == signal.SIGINT or not _arrived:
        end_at_once(number)


def raise_again(error: BaseException) -> None:
    """Raise `Terminated` again soon, if Python could not raise it where the signal arrived.

    Python prints an exception of a destructor or of a callback, and continues. For the main thread.
    """
    if isinstance(error, Terminated):
        signal.signal(signal.SIGALRM, lambda *_: _raise(error.number))
        signal.setitimer(signal.ITIMER_REAL, SWALLOWED_SECONDS)


def _raise(number: int) -> NoReturn:
    raise Terminated(number)


class Signals:
    """A handler that raises `Terminated`, at once or after it has been held back.

    Of several signals the first counts. A second Ctrl-C ends the process at once.

    Attributes:
      wanted: the first signal that has arrived, or None.
    """

    depth = 0
    """How many handlers listen, one within the other."""

    def __init__(self) -> None:
        """Do nothing until `listen`."""
        self.wanted: int | None = None
        self._held = False

    @contextlib.contextmanager
    def listen(self, *, alone: bool = True) -> Iterator["Signals"]:
        """Raise `Terminated` when a signal arrives within the context; for the main thread.

        Args:
          alone: False for one of several processes, none of which may end by itself, because the
            others would wait for it. JAX then handles SIGTERM, see `preemption.is_agreed`, and
            SIGHUP counts as SIGTERM.
        """
        handlers: dict[signal.Signals, Any] = dict.fromkeys(heard(), self._handle)
        if not alone:
            handlers.pop(signal.SIGTERM, None)
            if signal.SIGHUP in handlers:
                handlers[signal.SIGHUP] = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
        if not Signals.depth:
            _arrived.clear()
        Signals.depth += 1
        before = {number: signal.signal(number, call) for number, call in handlers.items()}
        try:
            yield self
        finally:
            Signals.depth -= 1
            for number, call in before.items():
                signal.signal(number, call)
            signal.setitimer(signal.ITIMER_REAL, 0)

    @contextlib.contextmanager
    def held(self, held: bool = True) -> Iterator[None]:
        """Hold signals back within the context: set `wanted` without raising `Terminated`.

        `held(False)` within such a context lets signals raise again.
        """
        before, self._held = self._held, held
        try:
            yield
        finally:
            self._held = before

    def check(self) -> None:
        """Raise `Terminated` if a signal has arrived."""
        if self.wanted is not None:
            raise Terminated(self.wanted)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if _arrived:
            if number == signal.SIGINT:
                end_at_once(number)
            return
        _arrived.append(number)
        self.wanted = number
        if not self._held:
            raise Terminated(number)
