"""Messages of libraries that say nothing to a user."""

import sys
from typing import Any

from absl import logging


def hush_libraries() -> None:
    """Drop the tracebacks that Orbax logs, several times, for every error that it also raises."""
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_logger().addFilter(lambda record: not record.exc_info)
    show = sys.unraisablehook

    def show_others(unraisable: Any) -> None:
        # TensorStore reports the error to an event loop that Orbax has already closed.
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = show_others
