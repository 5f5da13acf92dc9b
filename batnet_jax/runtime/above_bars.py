"""Lines that are printed while a progress bar is on the terminal, above the bar."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from tqdm import tqdm

_open: list[TextIO] = []
"""The terminals of the bars that are open."""


class _AboveBars:
    """A text stream on a terminal with bars: each whole line is written above them."""

    def __init__(self, stream: TextIO, terminal: TextIO):
        """Wrap a stream.

        Args:
          stream: on the terminal.
          terminal: the stream of the bars.
        """
        self._stream, self._terminal = stream, terminal
        self._begun = ""

    def write(self, text: str) -> int:
        """Write all lines that are complete; the rest waits for its end."""
        lines, newline, self._begun = (self._begun + text).rpartition("\n")
        if newline:
            self._write(lines + newline)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def finish(self) -> None:
        """Write the line that has not ended."""
        begun, self._begun = self._begun, ""
        if begun:
            self._write(begun)

    def _write(self, text: str) -> None:
        with tqdm.external_write_mode(file=self._terminal):
            self._stream.write(text)
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def above_bars(terminal: TextIO) -> Iterator[None]:
    """Let the lines that Python prints within the context appear above the bars.

    Args:
      terminal: the stream of the bars, see `unwrap`. A context within another changes nothing.
    """
    _open.append(terminal)
    if len(_open) == 1:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and stream.isatty():
                setattr(sys, name, _AboveBars(stream, terminal))
    try:
        yield
    finally:
        _open.pop()
        for name in () if _open else ("stdout", "stderr"):
            stream = getattr(sys, name)
            if isinstance(stream, _AboveBars):
                stream.finish()
                setattr(sys, name, unwrap(stream))


def unwrap(stream: Any) -> Any:
    """Return the stream below `above_bars`, to which bars themselves are written."""
    return stream._stream if isinstance(stream, _AboveBars) else stream
