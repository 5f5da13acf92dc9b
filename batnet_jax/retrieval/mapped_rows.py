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
    taken = features[rows]
    copied = taken.dtype != np.float32 or not isinstance(rows, slice)
    taken = np.asarray(taken, np.float32) if copied else np.array(taken)
    give_back(features)
    return taken


def view_rows(features: np.ndarray, rows: slice) -> Float32[np.ndarray, "n d"]:
    """The same, but no copy of float32 rows that are in memory; not to be written to."""
    if in_memory(features):
        return np.asarray(features[rows], np.float32)
    return read_rows(features, rows)


def in_memory(array: np.ndarray) -> bool:
    """Whether it is no mapped file."""
    return _mapping(array)[0] is None


def give_back(rows: np.ndarray) -> None:
    """Gives back the pages of a mapped file that hold `rows`: who asks again reads them again."""
    mapping, mode = _mapping(rows)
    # Under "c" the pages may hold changes that are nowhere else.
    if mapping and len(rows) and mode in ("r", "r+") and hasattr(mmap, "MADV_DONTNEED"):
        start = rows.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        last = min(start + rows.nbytes, len(mapping))
        mapping.madvise(mmap.MADV_DONTNEED, first, last - first)


def _mapping(array: np.ndarray) -> tuple[mmap.mmap | None, str | None]:
    """The mapped file under an array, and how it was opened."""
    base, mode = array, None
    while isinstance(base, np.ndarray):
        mode = getattr(base, "mode", mode)
        base = base.base
    return (base, mode) if isinstance(base, mmap.mmap) else (None, mode)
