"""Progress on stderr: a bar on a terminal, few plain lines elsewhere.

While a bar is on a terminal, all lines that Python prints appear above it. Only the first of
several processes shows progress.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from batnet_jax.runtime import processes
from batnet_jax.runtime.above_bars import above_bars, unwrap

TERMINAL_SECONDS = 0.2
PLAIN_SECONDS = 30.0
"""Seconds between two plain lines, at least."""
PLAIN_LINES = 20
"""Plain lines of one bar, at most."""


class Bar(Protocol):
    """A progress bar, as `progress_bar` returns it; use it as a context, or close it."""

    n: int
    """Units done."""
    total: Any

    def update(self, n: int = 1) -> Any:
        """Count units that are done."""

    def note(self, text: str) -> None:
        """Set the text behind the numbers."""

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Stop the clock of the rate and of the time left, within the context."""
        ...

    def close(self) -> None:
        """End the bar."""

    def __enter__(self) -> Any: ...

    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> Any: ...


class _Clock:
    """Seconds that pass, except within `paused`; the system's clock may be set meanwhile."""

    def __init__(self) -> None:
        self._left_out = 0.0

    def __call__(self) -> float:
        return time.monotonic() - self._left_out

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        before = time.monotonic()
        try:
            yield
        finally:
            self._left_out += time.monotonic() - before


class _TerminalBar(tqdm):
    """A bar of tqdm whose clock can be paused, below all lines that are printed meanwhile."""

    def __init__(self, file: TextIO, **options: Any):
        self._clock, file = _Clock(), unwrap(file)
        self._above = contextlib.ExitStack()
        self._above.enter_context(above_bars(file))
        super().__init__(file=file, dynamic_ncols=True, **options)
        self._time = self._clock
        self.start_t = self.last_print_t = self._clock()

    def note(self, text: str) -> None:
        self.set_postfix_str(text, refresh=False)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        with self._clock.paused():
            yield

    def close(self) -> None:
        super().close()
        self._above.close()


class _PlainBar:
    """A line now and then."""

    def __init__(self, file: TextIO, *, total: int, description: str, unit: str, initial: int):
        self.n, self.total = initial, total
        self._file, self._description, self._unit = file, description, unit
        self._note = ""
        self._first, self._said = initial, initial
        self._clock = _Clock()
        self._start = self._spoke = self._clock()

    def update(self, n: int = 1) -> None:
        self.n += n
        due = self._clock() - self._spoke >= PLAIN_SECONDS
        if due and (self.n - self._said) * PLAIN_LINES >= self.total:
            self._said, self._spoke = self.n, self._clock()
            self._file.write(f"{self.line()}\n")
            self._file.flush()

    def line(self) -> str:
        """Return the state in words."""
        seconds, done = self._clock() - self._start, self.n - self._first
        words = [f"{self._description}: {self.n:,} of {self.total:,} {self._unit}s"]
        if self.n < self.total and done and seconds > 0:
            words.append(f"{format_seconds(seconds / done * (self.total - self.n))} left")
        return ", ".join([*words, *([self._note] if self._note else [])])

    def note(self, text: str) -> None:
        self._note = text

    def paused(self) -> contextlib.AbstractContextManager[None]:
        return self._clock.paused()

    def close(self) -> None:
        pass

    def __enter__(self) -> "_PlainBar":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> None:
        self.close()


class _NoFile:
    """The stream of the processes that show nothing."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


def progress_bar(
    total: int,
    *,
    description: str,
    unit: str = "image",
    initial: int = 0,
    delay: float = 0,
    layout: str | None = None,
) -> Bar:
    """Open a bar with the time left; off a terminal, at most a line every `PLAIN_SECONDS`.

    Args:
      total: number of units.
      description: text before the bar.
      unit: name of a unit.
      initial: units done before.
      delay: seconds before the bar appears.
      layout: tqdm's `bar_format`, which shows the rate over the whole time; None = tqdm's own,
        which shows the rate over the last seconds.
    """
    lead = processes.is_lead()
    if not (lead and is_terminal(sys.stderr)):
        file: Any = sys.stderr if lead else _NoFile()
        return _PlainBar(file, total=total, description=description, unit=unit, initial=initial)
    return _TerminalBar(
        sys.stderr,
        total=total,
        desc=description,
        unit=unit,
        initial=initial,
        mininterval=TERMINAL_SECONDS,
        maxinterval=TERMINAL_SECONDS,
        delay=delay,
        bar_format=layout,
        smoothing=0.3 if layout is None else 0,
        leave=None,
    )


@contextlib.contextmanager
def counting_bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Open a bar of unknown length; yield a function of (units done, total) that updates it."""
    with progress_bar(0, description=description, unit=unit) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


@contextlib.contextmanager
def waiting(what: str, done: str, *, delay: float = 0) -> Iterator[Callable[[], float]]:
    """Show that one thing takes its time, with the seconds that have passed.

    On a terminal the seconds count at the end of a single line. Elsewhere a line says what is
    done, and another how long it took.

    Args:
      what: the work in progress, as in "compiling, once".
      done: the work when it is done, as in "compiled".
      delay: seconds that may pass before anything is shown.
    Yields: a function that returns the seconds that have passed.
    """
    start, end = time.monotonic(), threading.Event()

    def passed() -> float:
        return time.monotonic() - start

    if not processes.is_lead():
        yield passed
        return
    on_terminal = is_terminal(sys.stderr)
    show = _count_seconds if on_terminal else _say
    thread = threading.Thread(target=show, args=(what, start, delay, end), daemon=True)
    thread.start()
    try:
        yield passed
    finally:
        end.set()
        thread.join()
    if not on_terminal and passed() >= max(delay, 1):
        print(f"{done} in {format_seconds(passed())}", file=sys.stderr)


def _say(what: str, start: float, delay: float, end: threading.Event) -> None:
    if not (delay and end.wait(delay)):
        print(what, file=sys.stderr)


def _count_seconds(what: str, start: float, delay: float, end: threading.Event) -> None:
    """Show a line whose seconds count until `end`; it stays, unless a bar is above it."""
    if delay and end.wait(delay):
        return
    with _TerminalBar(sys.stderr, total=1, bar_format="{desc}", leave=None) as bar:
        while True:
            seconds = format_seconds(time.monotonic() - start)
            bar.set_description_str(f"{what}: {seconds}")
            if end.wait(0.5):
                return


def is_terminal(stream: Any) -> bool:
    """Return whether a stream is a terminal, on which a line can be overwritten.

    A terminal without a size, as under `docker run -t`, does not count: tqdm shows nothing on it.
    """
    try:
        return stream.isatty() and 0 not in os.get_terminal_size(stream.fileno())
    except (AttributeError, ValueError, OSError):  # no stream, a closed one, or one without a file
        return False


def format_seconds(seconds: float) -> str:
    """Return a duration in words, as in `8 s`, `7 min 52 s` or `3 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"
