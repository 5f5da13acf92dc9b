"""Opens files safely: a whole file, or a part such as a member of a .tar.

A folder of unknown origin may hold pipes, which block; links to devices, which never end; and
sparse files of a terabyte.
"""

import io
import os
from pathlib import Path
from typing import BinaryIO, cast

from batnet_jax.errors import UserError
from batnet_jax.runtime.read_files import open_regular

MAX_BYTES = 300_000_000
"""Limit of a file that is read whole: 3 bytes for each pixel of the largest image."""


def read_whole(path: str | os.PathLike, start: int = 0, size: int | None = None) -> bytes:
    """Return the content of a file, or `size` bytes of it from `start`.

    Raises: OSError if the path is not a regular file, is too large or too short, or cannot be read;
      ValueError if the name holds a null byte.
    """
    with open(open_regular(path), "rb") as file:
        wanted = os.fstat(file.fileno()).st_size if size is None else size
        check_bytes(wanted)
        file.seek(start)
        content = file.read(wanted)
    if size is not None and len(content) < size:
        raise OSError("it ends too early")
    return content


def check_local(path: str | os.PathLike) -> None:
    """Refuse an address such as https://..., because `Path` would turn it into another name.

    Raises: UserError.
    """
    if "://" in os.fspath(path):
        raise UserError(
            f"'{os.fspath(path)}' is an address, and only files of this machine are read: download "
            "it, and name the file or folder"
        )


def check_bytes(size: int) -> None:
    """Raise an OSError if a file of `size` bytes is too large to be read whole."""
    if size > MAX_BYTES:
        raise OSError(f"{size:,} bytes, of which at most {MAX_BYTES:,} are read")


def open_part(path: Path, start: int, size: int) -> BinaryIO:
    """Open `size` bytes of a file, from `start`, for random access.

    Raises: OSError if the path is not a regular file or cannot be read.
    """
    return file_part(open_regular(path), start, size)


def file_part(descriptor: int, start: int, size: int) -> BinaryIO:
    """Open `size` bytes of an open file; the result owns the descriptor and closes it."""
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
