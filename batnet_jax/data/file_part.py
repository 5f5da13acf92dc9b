"""A stretch of an open file, such as a member of a .tar, at random access."""

import io
import os
from pathlib import Path
from typing import BinaryIO, cast


def open_part(path: Path, start: int, size: int) -> BinaryIO:
    """Opens `size` bytes of a file."""
    return file_part(os.open(path, os.O_RDONLY), start, size)


def file_part(descriptor: int, start: int, size: int) -> BinaryIO:
    """The same of an open file, which it owns: the file is closed with it, or when it is gone."""
    return cast(BinaryIO, _Part(descriptor, start, size))


class _Part(io.RawIOBase):
    def __init__(self, descriptor: int, start: int, size: int):
        self._descriptor, self._start, self._size = descriptor, start, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer) -> int:
        wanted = memoryview(buffer)[: max(self._size - self._position, 0)]
        count = os.preadv(self._descriptor, [wanted], self._start + self._position)
        self._position += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
