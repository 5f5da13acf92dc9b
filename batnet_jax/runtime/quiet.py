"""Suppresses messages of libraries that do not help a user."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from absl import logging

from batnet_jax.runtime.signals import raise_again

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
FATAL_ALONE = "3"
"""XLA's lines that break into a bar, such as "Very slow compile?", are errors by their level."""


class _Stderr:
    """The stream that `sys.stderr` is at the time of writing, which may be above a bar."""

    def write(self, text: str) -> None:
        if sys.stderr is not None:
            sys.stderr.write(text)

    def flush(self) -> None:
        if sys.stderr is not None:
            sys.stderr.flush()

    def close(self) -> None:
        pass


def hush_xla() -> None:
    """Let XLA write only messages that end the process, unless TF_CPP_MIN_LOG_LEVEL is set.

    It has no effect once JAX is imported.
    """
    os.environ.setdefault(LEVEL, FATAL_ALONE)


@contextlib.contextmanager
def hushed_absl() -> Iterator[None]:
    """Let Orbax and TFDS log nothing but errors within the context."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def hush_libraries() -> None:
    """Suppress the lines of XLA, absl and Orbax; call it before JAX is imported.

    Orbax logs each exception that it raises, several times with a traceback. These lines are
    dropped, and so is its advice on how often to save.
    """
    hush_xla()
    logging.set_verbosity(logging.ERROR)
    logging.get_absl_logger().addFilter(lambda record: not record.exc_info)
    logging.use_absl_handler()
    handler: Any = logging.get_absl_handler()
    handler.python_handler.stream = _Stderr()
    show = sys.unraisablehook

    def show_others(unraisable: Any) -> None:
        error = unraisable.exc_value
        if isinstance(error, KeyboardInterrupt):
            raise_again(error)
        # TensorStore reports the error to an event loop that Orbax has already closed.
        elif str(error) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = show_others
