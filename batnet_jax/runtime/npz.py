"""Reads NumPy's files, which may be damaged or malicious.

Arrays of numbers and strings are read, as `np.load` reads them. A file must hold exactly the bytes
that its header declares, every checksum of the archive is compared, and the memory is bounded by
the size of the file.
"""

import contextlib
import io
import math
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from batnet_jax.errors import one_line
from batnet_jax.runtime.read_files import open_regular

KINDS = "biufcSU"
"""Kinds of the types that are read: numbers and strings."""
MOST_UNPACKED = 20
"""Limit of the unpacked size of compressed arrays, in sizes of the file."""
UNPACKED_BYTES = 250_000_000
"""Unpacked bytes that are allowed in addition."""
_CHECKED_BYTES = 1 << 20
"""Bytes that are compared with a checksum at a time; they stay in a cache of the processor."""
_HEADER_BYTES = 1 << 16
"""Limit of the header of an array; NumPy writes 128 bytes, and reads 10,000 characters."""
_DIRECTORY_BYTES = 1 << 22
"""Limit of an archive's list of members: some 40,000 arrays."""
_END = struct.Struct("<4s4H2LH")
"""The record at the end of a zip archive."""
_LARGEST_CHARACTER = 0x10FFFF


class Place(NamedTuple):
    """Where the bytes of an array lie in a file."""

    start: int
    """The first byte of the array's header."""
    data: int
    """The first byte of the array's values."""
    end: int
    """The byte behind the last value."""
    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    """Whether the first index changes fastest."""


class Npz:
    """An open .npz; see `open_npz`.

    Attributes:
      file: the open file of the archive.
      names: of the arrays.
      members: the number of members by the archive's last record, arrays or not.
      comment: of the archive.
    """

    def __init__(self, file: BinaryIO, archive: zipfile.ZipFile, members: int):
        """Keep an open archive."""
        self.file = file
        self.comment = archive.comment
        self._archive = archive
        self._size = os.fstat(file.fileno()).st_size
        found = {info.filename: info for info in archive.infolist()}
        self._infos = {n.removesuffix(".npy"): i for n, i in found.items() if n.endswith(".npy")}
        self.names = list(self._infos)
        self.members = members

    def read(self, names: Iterable[str], most: int | None = None) -> dict[str, np.ndarray]:
        """Read some arrays as a whole.

        Args:
          names: of the arrays.
          most: limit of their bytes; None: `MOST_UNPACKED` and `UNPACKED_BYTES` set it.

        Raises: ValueError if they are not whole, or would take too much memory.
        """
        infos = {name: self._infos[name] for name in names}
        wanted = sum(info.file_size for info in infos.values())
        if most is None:
            most = MOST_UNPACKED * self._size + UNPACKED_BYTES
        if wanted > most:
            raise ValueError(f"its arrays take {wanted:,} bytes, and at most {most:,} are read")
        return {name: parse_npy(self._read_member(info)) for name, info in infos.items()}

    def place(self, name: str) -> Place | None:
        """Return where an array lies; None if it is compressed.

        Raises: ValueError if the archive and the header of the array contradict each other.
        """
        info = self._infos[name]
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        self._archive.open(info).close()  # compares the member's own header with the directory
        self.file.seek(info.header_offset + 26)
        start = info.header_offset + 30 + sum(struct.unpack("<HH", self.file.read(4)))
        end = start + info.file_size
        if info.compress_size != info.file_size or end > self._size:
            raise ValueError("it is cut off")
        return place_npy(self.file, start, end)

    def describe(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """Return the shape and the type that the header of an array declares, whatever they are.

        Raises: ValueError if the header is damaged.
        """
        with self._archive.open(self._infos[name]) as member:
            shape, _, dtype = _read_header(io.BytesIO(member.read(_HEADER_BYTES)))
        return shape, dtype

    def crc(self, name: str) -> int:
        """Return the CRC-32 of an array's bytes, from the header to the last value."""
        return self._infos[name].CRC

    def check(self, name: str) -> None:
        """Compare an array that is not compressed with its checksum, a part at a time.

        Raises: ValueError if they differ.
        """
        place = self.place(name)
        assert place is not None
        self.file.seek(place.start)
        part, crc, left = memoryview(bytearray(_CHECKED_BYTES)), 0, place.end - place.start
        while left:
            count = self.file.readinto(part[:left])  # type: ignore[attr-defined]
            if not count:
                raise ValueError("it is cut off")
            crc = zlib.crc32(part[:count], crc)
            left -= count
        if crc != self.crc(name):
            raise ValueError(f"{name} does not match its checksum")

    def _read_member(self, info: zipfile.ZipInfo) -> bytearray:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("it is compressed in another way than NumPy's")
        if info.compress_type == zipfile.ZIP_STORED and info.file_size > self._size:
            raise ValueError("it is cut off")
        content, crc = bytearray(), 0
        with self._archive.open(info) as member:
            while part := member.read(1 << 20):
                content += part
                crc = zlib.crc32(part, crc)
        if len(content) != info.file_size or crc != info.CRC:
            raise ValueError(f"{info.filename} does not match its checksum")
        return content


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[Npz]:
    """Open an .npz.

    Raises: OSError if the file cannot be read; ValueError, also from the body of the `with`
      statement, for whatever a damaged archive raises.
    """
    with open(open_regular(path), "rb") as file:
        try:
            members = _check_directory(file)
            with zipfile.ZipFile(file) as archive:
                yield Npz(file, archive, members)
        except (OSError, ValueError, MemoryError):
            raise
        except (
            *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, LookupError, TypeError),
            *(NotImplementedError, RuntimeError, ArithmeticError, SyntaxError),
        ) as error:
            raise ValueError(one_line(error)) from error


def read_npz(
    path: Path, names: Iterable[str] | None = None, most: int | None = None
) -> dict[str, np.ndarray]:
    """Read arrays of an .npz.

    Args:
      path: the file.
      names: of the arrays; missing ones are left out. None for all.
      most: see `Npz.read`.

    Raises: OSError if the file cannot be read; ValueError if it is damaged.
    """
    with open_npz(path) as archive:
        wanted = archive.names if names is None else [n for n in names if n in archive.names]
        return archive.read(wanted, most)


def parse_npy(content: bytearray) -> np.ndarray:
    """Return the array in the content of an .npy, on the memory of the content.

    Raises: ValueError if the content is not exactly one array of numbers or strings.
    """
    place = place_npy(io.BytesIO(content[:_HEADER_BYTES]), 0, len(content))
    order = "F" if place.is_fortran else "C"
    array = np.ndarray(place.shape, place.dtype, content, place.data, order=order)
    if place.dtype.kind == "U":
        characters = np.ndarray(
            (array.nbytes // 4,), place.dtype.byteorder + "u4", content, place.data
        )
        if characters.size and characters.max() > _LARGEST_CHARACTER:
            raise ValueError("its strings hold numbers that are not characters")
    return array


def place_npy(file: BinaryIO, start: int, end: int) -> Place:
    """Read the header of an array.

    Args:
      file: the open file that holds the array.
      start: the first byte of the header.
      end: the byte behind the last value.

    Raises: ValueError if the header is damaged, or declares another size.
    """
    file.seek(start)
    head = io.BytesIO(file.read(min(end - start, _HEADER_BYTES)))
    shape, is_fortran, dtype = _read_header(head)
    if dtype.hasobject:
        raise ValueError("it holds Python's objects; arrays of numbers and strings are read")
    if dtype.kind not in KINDS or not dtype.itemsize:
        raise ValueError(f"it holds an array of type {one_line(str(dtype))}")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"it holds an array of shape {one_line(str(shape))}")
    data = start + head.tell()
    if data + math.prod(shape) * dtype.itemsize != end:
        raise ValueError("an array does not have the size that its header declares: it is cut off")
    return Place(start, data, end, shape, dtype, bool(is_fortran))


def _read_header(head: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return the shape, whether the first index changes fastest, and the type in a header.

    Raises: ValueError if the header is damaged.
    """
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers of Python 2, and odd literals
            return readers[np.lib.format.read_magic(head)](head)
    except Exception as error:  # NumPy parses Python, and raises many types
        raise ValueError(f"the header of an array is damaged ({one_line(error)})") from error


def _check_directory(file: BinaryIO) -> int:
    """Check the size of an archive's list of members, which `zipfile` reads as a whole.

    Returns: the number of members that the archive declares; a zip64 may have more than 65,535.

    Raises: ValueError if it is too large, or if the file is not an archive.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - _END.size - 0xFFFF))
    tail = file.read()
    place = tail.rfind(b"PK\5\6")
    if place < 0 or len(tail) < place + _END.size:
        raise ValueError("it is not an .npz, or is cut off")
    _, _, _, _, members, size, _, _ = _END.unpack_from(tail, place)
    locator = place - 20
    if size == 0xFFFFFFFF and locator >= 0 and tail[locator : locator + 4] == b"PK\6\7":
        (record,) = struct.unpack_from("<Q", tail, locator + 8)
        file.seek(min(record + 40, length))
        size = int.from_bytes(file.read(8), "little")
    if size > _DIRECTORY_BYTES:
        raise ValueError(f"its list of arrays takes {size:,} bytes")
    return members
