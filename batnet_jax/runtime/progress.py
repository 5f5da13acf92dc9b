"""TODO."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from batnet_jax.runtime import processes


def progress_bar(
    total: int, *, description: str, unit: str = "image", initial: int = 0, delay: float = 0
) -> tqdm:
    """A bar on stderr with rate and time left; a line now and then where that is no terminal.

    Of several processes, one has it.

    Args:
      total: of units.
      description: what is done.
      unit: what is counted.
      initial: units done before.
      delay: seconds to wait before anything is shown.
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
    # tqdm's clock is the system's, which may jump: back, and the bar stands still for as long.
    bar._time = time.monotonic  # type: ignore[misc]
    bar.start_t = bar.last_print_t = time.monotonic()
    return bar


@contextlib.contextmanager
def counting_bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that starts with its first call: yields a function of (done, in all)."""
    with progress_bar(0, description=description, unit=unit) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
