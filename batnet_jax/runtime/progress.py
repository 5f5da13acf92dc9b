"""Progress bars on stderr."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from batnet_jax.runtime import processes


def progress_bar(
    total: int, *, description: str, unit: str = "image", initial: int = 0, delay: float = 0
) -> tqdm:
    """Open a bar with rate and time left; if stderr is not a terminal, a line every 20 seconds.

    Only the first of several processes shows the bar.

    Args:
      total: number of units.
      description: text before the bar.
      unit: name of a unit.
      initial: units done before.
      delay: seconds before the bar appears.
    """
    seconds = 0.2 if sys.stderr.isatty() else 20
    bar = tqdm(
        total=total,
        desc=description,
        unit=unit,
        initial=initial,
        mininterval=seconds,
        maxinterval=seconds,
        delay=delay,
        dynamic_ncols=True,
        disable=not processes.is_lead(),
    )
    # tqdm uses the system's clock. If that is set back, the bar does not move for the same time.
    bar._time = time.monotonic  # type: ignore[misc]
    bar.start_t = bar.last_print_t = time.monotonic()
    return bar


@contextlib.contextmanager
def counting_bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Open a bar of unknown length; yield a function of (units done, total) that updates it."""
    with progress_bar(0, description=description, unit=unit) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
