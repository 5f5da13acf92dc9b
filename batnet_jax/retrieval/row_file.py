"""Rows of features in a file that may be larger than memory, read on demand.

The file is not memory-mapped: if somebody cuts a mapped file off, a signal ends the process that
reads it. Reading the file raises an exception instead. Bytes are compared with their checksums the
first time that they are read.
"""

import os
import weakref
import zlib
from typing import NamedTuple

import numpy as np

from batnet_jax.errors import UserError

ALIGNMENT = 64
"""Bytes. The CPU's device uses memory of this alignment in place and copies other memory."""


class BlockSums(NamedTuple):
    """The checksums of a file's blocks, which have one size; the last block may be shorter."""

    start: int
    """The first byte of the first block."""
    end: int
    """The byte behind the last block."""
    size: int
    """Bytes of a block."""
    sums: np.ndarray
    """[blocks] uint32, the CRC-32 of each."""


class RowFile:
    """An array [n, d] of floats in a file; `rows[a:b]` and `rows[indices]` read a part of it.

    Attributes:
      shape: (n, d).
      dtype: of the values in the file.
      nbytes: of all rows.
      ndim: 2.
    """

    ndim = 2

    def __init__(
        self,
        descriptor: int,
        *,
        name: str,
        data: int,
        shape: tuple[int, int],
        dtype: np.dtype,
        sums: BlockSums | None = None,
    ):
        """Read a file through a descriptor of its own.

        Args:
          descriptor: of the open file.
          name: of the file, for messages.
          data: the first byte of the first row.
          shape: n and d.
          dtype: of the values.
          sums: to compare the bytes with.
        """
        self._descriptor = os.dup(descriptor)
        weakref.finalize(self, os.close, self._descriptor)
        self.shape, self.dtype = shape, dtype
        self.nbytes = shape[0] * shape[1] * dtype.itemsize
        self._name, self._data, self._sums = name, data, sums
        self._checked = np.zeros(0 if sums is None else len(sums.sums), bool)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def __getitem__(self, rows: slice | int | np.ndarray) -> np.ndarray:
        """Return a copy of some rows.

        Raises: UserError if the file has been cut off, or does not match its checksums.
        """
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                out = aligned_array((max(stop - start, 0), self.shape[1]), self.dtype)
                self.read_into(start, out)
                return out
        wanted = np.arange(len(self))[rows]
        out = np.empty((wanted.size, self.shape[1]), self.dtype)
        for place, row in enumerate(wanted.ravel().tolist()):
            self.read_into(row, out[place : place + 1])
        return out.reshape(*wanted.shape, self.shape[1])

    def read_into(self, first: int, out: np.ndarray) -> None:
        """Read the rows from `first` on into `out`, [m, d] of the file's type.

        Raises: UserError if the file has been cut off, or does not match its checksums.
        """
        start = self._data + first * self.shape[1] * self.dtype.itemsize
        if out.nbytes:
            self.check_bytes(start, start + out.nbytes)
            self._read(start, out.reshape(-1).view(np.uint8).data)

    def check_bytes(self, start: int, end: int) -> None:
        """Compare the blocks that contain bytes `start` to `end` with their checksums, once each.

        Raises: UserError if they differ.
        """
        if self._sums is None:
            return
        first, size = self._sums.start, self._sums.size
        for block in range((start - first) // size, (end - 1 - first) // size + 1):
            if not self._checked[block]:
                place = first + block * size
                content = bytearray(min(size, self._sums.end - place))
                self._read(place, memoryview(content))
                if zlib.crc32(content) != self._sums.sums[block]:
                    raise UserError(
                        f"'{self._name}' is damaged: bytes {place:,} to {place + len(content):,} do"
                        " not match their checksum: embed the images again"
                    )
                self._checked[block] = True

    def _read(self, place: int, out: memoryview) -> None:
        done = 0
        while done < len(out):
            try:
                count = os.preadv(self._descriptor, [out[done:]], place + done)
            except OSError as error:
                raise UserError(f"'{self._name}' cannot be read ({error.strerror})") from error
            if not count:
                raise UserError(
                    f"'{self._name}' has been cut off while it was in use: embed the images again"
                )
            done += count


def aligned_array(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """Return a new array whose address is a multiple of `ALIGNMENT`."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(kind).reshape(shape)
