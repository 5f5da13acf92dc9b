"""Rows of features, from memory or from a file that is larger than it."""

import mmap

import numpy as np
from jaxtyping import Float32

ROWS_AT_ONCE = 4096


def read_rows(features: np.ndarray, rows: np.ndarray | slice) -> Float32[np.ndarray, "n d"]:
    """A copy of some rows, as float32.

    Pages of a mapped file (`np.load(path, mmap_mode="r")`) are given back, as they count as memory
    of the process.
    """
    taken = np.array(features[rows], np.float32)
    _give_back(features)
    return taken


def _give_back(array: np.ndarray) -> None:
    base, mode = array, None
    while isinstance(base, np.ndarray):
        mode = getattr(base, "mode", mode)
        base = base.base
    # Under "c" the pages may hold changes that are nowhere else.
    if isinstance(base, mmap.mmap) and mode in ("r", "r+") and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
