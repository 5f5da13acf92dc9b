"""Views of features that `top_k` searches as if they were one file: some rows, or several files."""

from collections.abc import Sequence

import numpy as np

from batnet_jax.retrieval.row_file import RowFile

_GAP_BYTES = 2**16
"""Bytes between two rows that are read with them: one long read is faster than two."""
_SPAN_BYTES = 2**22
"""Limit of the bytes that are read at a time."""
_RUN_BYTES = 2**16
"""Mean length from which runs of neighbouring rows are read directly to their place."""


class RowView(RowFile):
    """A view of rows that are stored elsewhere; a `RowFile` without its own file."""

    def __init__(self, shape: tuple[int, int], dtype: np.dtype):
        """Describe the rows."""
        self.shape, self.dtype = shape, dtype
        self.nbytes = shape[0] * shape[1] * dtype.itemsize

    def check_bytes(self, start: int, end: int) -> None:
        """Do nothing, because the file of the rows compares its own checksums."""


class ChosenRows(RowView):
    """Some rows of features, in ascending order."""

    def __init__(self, features: np.ndarray | RowFile, chosen: np.ndarray):
        """Keep the choice; nothing is read.

        Args:
          features: [n, d].
          chosen: [m] indices, ascending.
        """
        super().__init__((len(chosen), features.shape[1]), features.dtype)
        self._features, self._chosen = features, chosen

    def read_into(self, first: int, out: np.ndarray) -> None:
        """Read the rows from `first` on into `out`; see the base class."""
        wanted = self._chosen[first : first + len(out)]
        if isinstance(self._features, np.ndarray):
            np.take(self._features, wanted, axis=0, out=out)
            return
        if not len(wanted):
            return
        width = max(self.shape[1] * self.dtype.itemsize, 1)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(wanted) != 1) + 1, [len(wanted)]])
        if len(wanted) * width >= _RUN_BYTES * (len(starts) - 1):
            for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
                self._features.read_into(int(wanted[start]), out[start:stop])
            return
        gap, span = max(_GAP_BYTES // width, 1), max(_SPAN_BYTES // width, 1)
        jumps = np.diff(wanted) > gap
        start = 0
        while start < len(wanted):
            stop = int(np.searchsorted(wanted, wanted[start] + span))
            far = np.flatnonzero(jumps[start : stop - 1])
            stop = start + 1 + int(far[0]) if len(far) else stop
            rows = self._features[int(wanted[start]) : int(wanted[stop - 1]) + 1]
            out[start:stop] = rows[wanted[start:stop] - wanted[start]]
            start = stop


class JoinedRows(RowView):
    """The rows of several features, one after the other."""

    def __init__(self, parts: Sequence[np.ndarray | RowFile]):
        """Keep the parts; nothing is read.

        Args:
          parts: each [n, d] of one d.
        """
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        dtype = np.result_type(*(part.dtype for part in parts))
        super().__init__((int(self._starts[-1]), parts[0].shape[1]), dtype)

    def read_into(self, first: int, out: np.ndarray) -> None:
        """Read the rows from `first` on into `out`; see the base class."""
        end = first + len(out)
        for part, start in zip(self._parts, self._starts.tolist(), strict=False):
            low, high = max(first, start), min(end, start + len(part))
            if low >= high:
                continue
            wanted = out[low - first : high - first]
            if isinstance(part, RowFile) and part.dtype == out.dtype:
                part.read_into(low - start, wanted)
            else:
                wanted[:] = part[low - start : high - start]
