"""Standard output and error of the command line, which never end a run.

A reader such as `head` may close its pipe before a run ends. The run's further output is then lost,
but not what it writes to files. Characters that the terminal's encoding lacks, such as the
bytes of a file name that is not UTF-8, are written out.
"""

import contextlib
import io
import os
import sys
from typing import Any, TextIO

from batnet_jax.errors import RunFailure


class UnbrokenStream:
    """A text stream whose reader may go away; it has all attributes of the wrapped stream."""

    def __init__(self, stream: TextIO, *, lossy: bool):
        """Wrap a stream.

        Args:
          stream: of text, with a file descriptor.
          lossy: ignore every error of writing, not only a closed pipe.
        """
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        self._stream = stream
        self._lossy = lossy

    def write(self, text: str) -> int:
        """Write text, or drop it if nobody reads any more.

        Raises: RunFailure if the file behind the stream cannot be written.
        """
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Pass on what has been written; see `write`."""
        with self._dropping():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _dropping(self):
        try:
            yield
        except BrokenPipeError:
            self._discard()
        except OSError as error:
            self._discard()
            if not self._lossy:
                raise RunFailure(
                    f"cannot write to standard output ({error.strerror}): make room; files that "
                    "were written are whole"
                ) from error

    def _discard(self) -> None:
        """Discard the text that is waiting, and all text that is written from now on."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()


def keep_streams() -> None:
    """Wrap the standard output and error of this process, unless it has none."""
    if sys.stdout is not None:
        sys.stdout = UnbrokenStream(sys.stdout, lossy=False)  # type: ignore[assignment]
    if sys.stderr is not None:
        sys.stderr = UnbrokenStream(sys.stderr, lossy=True)  # type: ignore[assignment]


def flush_streams() -> None:
    """Pass on all that was printed.

    Raises: RunFailure if the file behind the standard output cannot be written.
    """
    for stream in (sys.stderr, sys.stdout):
        if stream is not None:
            stream.flush()
