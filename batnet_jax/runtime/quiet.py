"""Messages of libraries that say nothing to a user."""

import sys
from typing import Any

from absl import logging

from batnet_jax.runtime.signals import raise_again


def hush_libraries() -> None:
    """Drop the tracebacks that Orbax logs, several times, for every error that it also raises."""
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_logger().addFilter(lambda record: not record.exc_info)
    show = sys.unraisablehook

    def show_others(unraisable: Any) -> None:
        error = unraisable.exc_value
        if isinstance(error, KeyboardInterrupt):
            raise_again(error)
        # TensorStore reports the error to an event loop that Orbax has already closed.
        elif str(error) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = show_others
