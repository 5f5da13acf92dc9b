"""Rows of features in several places of one file or of many, read on demand.

Each part has a checksum, which is compared the first time that rows of the part are read.
"""

import bisect
import os
import threading
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from batnet_jax.errors import UserError
from batnet_jax.retrieval.row_file import RowFile

MOST_OPEN = 128
"""Files that are kept open, because the system limits them."""
_CHECKED_AT_ONCE = 2**20


class Part(NamedTuple):
    """Rows that lie end to end in a file."""

    file: int
    """The number of the file."""
    data: int
    """The first byte of the first row."""
    count: int
    """Rows."""
    crc: int
    """The CRC-32 of their bytes."""


class PartFile(NamedTuple):
    """A file, with properties that another file of the same name would not share."""

    path: Path
    device: int
    inode: int
    size: int
    changed: int
    """Nanoseconds of its last change."""


def part_file(path: Path, descriptor: int) -> PartFile:
    """Describe an open file."""
    found = os.fstat(descriptor)
    return PartFile(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class RowParts(RowFile):
    """An array [n, d] of float32 in parts; `rows[a:b]` and `rows[indices]` read some rows.

    At most `MOST_OPEN` files are open at a time. A file that is opened again must be the same.
    """

    def __init__(self, files: Sequence[PartFile], parts: Sequence[Part], dim: int):
        """Keep the places; nothing is read.

        Args:
          files: the files that hold the parts.
          parts: in the order of the rows.
          dim: d.
        """
        self._files, self._parts = list(files), list(parts)
        self._firsts = [0, *np.cumsum([part.count for part in parts], dtype=np.int64).tolist()]
        self.shape, self.dtype = (self._firsts[-1], dim), np.dtype("<f4")
        self.nbytes = 4 * self.shape[0] * dim
        self._checked = np.zeros(len(parts), bool)
        self._open: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._open)
        if len(files) <= MOST_OPEN:  # a file that is replaced later stays readable
            for number in range(len(files)):
                self._descriptor_of(number)

    def read_into(self, first: int, out: np.ndarray) -> None:
        """Read the rows from `first` on into `out`, [m, d] float32.

        Raises: UserError if a file has been changed, or does not match its checksums.
        """
        done = 0
        while done < len(out):
            number = bisect.bisect_right(self._firsts, first + done) - 1
            skipped = first + done - self._firsts[number]
            count = min(self._parts[number].count - skipped, len(out) - done)
            self._read_part(number, skipped, out[done : done + count])
            done += count

    def check_part(self, number: int) -> bool:
        """Return whether a part matches its checksum."""
        part, found = self._parts[number], 0
        size = part.count * self.shape[1] * 4
        block = np.empty(min(size, _CHECKED_AT_ONCE), np.uint8)
        for start in range(0, size, _CHECKED_AT_ONCE):
            piece = block[: size - start].data
            self._read_bytes(part.file, part.data + start, piece)
            found = zlib.crc32(piece, found)
        return found == part.crc

    def _read_part(self, number: int, skipped: int, out: np.ndarray) -> None:
        """Read rows of one part, and compare its checksum once."""
        part, width = self._parts[number], 4 * self.shape[1]
        view = out.reshape(-1).view(np.uint8).data
        is_whole = len(out) == part.count  # then the rows are checked where they lie
        if not self._checked[number] and not is_whole and not self.check_part(number):
            self._refuse(number)
        self._read_bytes(part.file, part.data + skipped * width, view)
        if not self._checked[number] and is_whole and zlib.crc32(view) != part.crc:
            self._refuse(number)
        self._checked[number] = True

    def _refuse(self, number: int) -> None:
        first, part = self._firsts[number], self._parts[number]
        raise UserError(
            f"'{self._files[part.file].path}' is damaged: rows {first:,} to"
            f" {first + part.count - 1:,} do not match their checksum: embed the images again"
        )

    def _read_bytes(self, number: int, place: int, out: memoryview) -> None:
        path, done = self._files[number].path, 0
        with self._lock:  # another thread could close the file
            descriptor = self._descriptor_of(number)
            while done < len(out):
                try:
                    count = os.preadv(descriptor, [out[done:]], place + done)
                except OSError as error:
                    raise UserError(f"'{path}' cannot be read ({error.strerror})") from error
                if not count:
                    raise UserError(
                        f"'{path}' has been cut off while it was in use: embed the images again"
                    )
                done += count

    def _descriptor_of(self, number: int) -> int:
        """Return a descriptor of a file, which is opened if it is not open."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        wanted = self._files[number]
        try:
            descriptor = os.open(wanted.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"'{wanted.path}' cannot be read ({error.strerror})") from error
        if part_file(wanted.path, descriptor) != wanted:
            os.close(descriptor)
            raise UserError(f"'{wanted.path}' was replaced while it was in use: start again")
        while len(self._open) >= MOST_OPEN:
            os.close(self._open.popitem(last=False)[1])
        self._open[number] = descriptor
        return descriptor


def _close_all(opened: dict[int, int]) -> None:
    for descriptor in opened.values():
        os.close(descriptor)
