"""The seal of our Parquet files: a checksum of the footer, in front of the footer.

A Parquet file ends in a footer, which says where everything lies, its length, and `PAR1`. The
format has checksums of pages but not of the footer, and some damaged footers make pyarrow end the
process. Bytes between the last page and the footer are allowed, and no other program reads them. A
program that rewrites the file leaves the seal out.
"""

import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

_MARK = b"batnet_jax footer "
_SEAL_BYTES = len(_MARK) + 8
_TAIL = struct.Struct("<L4s")
_MAGIC = b"PAR1"
MAX_FOOTER = 2**28
"""Limit of the bytes of a footer, which grows with the row groups and the columns."""


def seal(path: Path) -> None:
    """Put the checksum of the footer into a file that pyarrow has written.

    Raises: OSError if the file cannot be written.
    """
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(size - _TAIL.size)
        tail = file.read(_TAIL.size)
        start = size - _TAIL.size - _TAIL.unpack(tail)[0]
        file.seek(start)
        footer = file.read(size - _TAIL.size - start)
        file.seek(start)
        file.write(_MARK + f"{zlib.crc32(footer):08x}".encode() + footer + tail)


def is_sealed(file: BinaryIO) -> bool:
    """Return whether a file has our seal.

    Raises: ValueError if the file is not Parquet, or its footer does not have the checksum.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL.size))
    tail = file.read(_TAIL.size)
    if size < 12 or not tail.endswith(_MAGIC):
        raise ValueError("it is not Parquet, or is cut off")
    length = _TAIL.unpack(tail)[0]
    if length > min(size - _TAIL.size, MAX_FOOTER):
        raise ValueError("its footer is damaged")
    file.seek(max(0, size - _TAIL.size - length - _SEAL_BYTES))
    end = file.read(_SEAL_BYTES + length)
    footer = end[len(end) - length :]
    given = end[: len(end) - length]
    if not given.startswith(_MARK):
        if _MARK in end:
            raise ValueError("its footer is damaged")
        return False
    if given[len(_MARK) :] != f"{zlib.crc32(footer):08x}".encode():
        raise ValueError("its footer does not match its checksum")
    return True
