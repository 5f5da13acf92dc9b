"""Rows of features, from memory or from a mapped file that may be larger than memory."""

import mmap

import numpy as np
from jaxtyping import Float32

from batnet_jax.retrieval.chosen_rows import ChosenRows
from batnet_jax.retrieval.row_file import RowFile

ROWS_AT_ONCE = 4096


def read_rows(
    features: np.ndarray | RowFile, rows: np.ndarray | slice
) -> Float32[np.ndarray, "n d"]:
    """Copy some rows, as float32.

    The pages of a mapped file (`np.load(path, mmap_mode="r")`) are released, because the system
    counts them as memory of the process.
    """
    if isinstance(features, RowFile):
        return np.asarray(read_file(features, rows), np.float32)
    selected = features[rows]
    is_copy = selected.dtype != np.float32 or not isinstance(rows, slice)
    copied = np.asarray(selected, np.float32) if is_copy else np.array(selected)
    release_pages(features)
    return copied


def read_file(features: RowFile, rows: np.ndarray | slice) -> np.ndarray:
    """Return some rows of a file, of its type; ascending indices are read in long pieces."""
    if isinstance(rows, slice) or len(rows) < 2 or rows[0] < 0 or (np.diff(rows) <= 0).any():
        return features[rows]
    return ChosenRows(features, rows)[:]


def view_rows(features: np.ndarray, rows: slice) -> Float32[np.ndarray, "n d"]:
    """Return some rows as float32, without a copy of float32 rows in memory; do not write to them.

    Rows of a mapped file are copied, as by `read_rows`.
    """
    if in_memory(features):
        return np.asarray(features[rows], np.float32)
    return read_rows(features, rows)


def in_memory(array: np.ndarray) -> bool:
    """Return whether an array is neither a mapped file nor a `RowFile`."""
    return isinstance(array, np.ndarray) and _mapping(array)[0] is None


def release_pages(rows: np.ndarray) -> None:
    """Release the pages of a mapped file that hold `rows`; a later access reads the file again."""
    mapping, mode = _mapping(rows)
    # In mode "c" the pages may hold changes that exist nowhere else.
    if mapping and len(rows) and mode in ("r", "r+") and hasattr(mmap, "MADV_DONTNEED"):
        start = rows.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        last = min(start + rows.nbytes, len(mapping))
        mapping.madvise(mmap.MADV_DONTNEED, first, last - first)


def _mapping(array: np.ndarray) -> tuple[mmap.mmap | None, str | None]:
    """Return the mapped file under an array, and the mode in which it was opened."""
    base, mode = array, None
    while isinstance(base, np.ndarray):
        mode = getattr(base, "mode", mode)
        base = base.base
    return (base, mode) if isinstance(base, mmap.mmap) else (None, mode)
