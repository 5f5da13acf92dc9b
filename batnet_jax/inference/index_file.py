"""Flat indices for faiss: our own reader of their vectors.

faiss trusts the sizes that a file declares, and a damaged file may take all memory. A flat index is
a header and the vectors, so this package reads it without faiss, and other indices not at all. An
index that this package wrote ends in its checksum, which faiss does not read:
`batnet_jax crc32`, 8 digits, and the fingerprint of the model.
"""

import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from batnet_jax.errors import UserError, one_line
from batnet_jax.retrieval.mapped_rows import read_rows
from batnet_jax.retrieval.row_file import RowFile
from batnet_jax.retrieval.scores import unit_length
from batnet_jax.runtime.atomic_write import atomic_path
from batnet_jax.runtime.read_files import open_regular

_KINDS = (b"IxFI", b"IxF2")
"""Of inner products and of Euclidean distances."""
_HEADER = struct.Struct("<4siqqq?iQ")
"""Kind, dimensions, vectors, two numbers without a meaning, is trained, metric, floats."""
_SUM = b"batnet_jax crc32 "
_OLDER = b"batnet_jax fingerprint "
"""Older versions wrote the fingerprint alone."""
_DIGITS = 8
ROWS_AT_ONCE = 2**14
"""Features that are read and added to an index at a time."""
_LONGEST_END = 200
"""Limit of the bytes behind the vectors."""


def open_index(path: Path) -> RowFile:
    """Open the vectors of a flat index.

    Raises: OSError if the file cannot be read; UserError if it is damaged, or no flat index.
    """
    with open(open_regular(path), "rb") as file:
        start = file.read(_HEADER.size)
        kind = start[:4]
        if kind not in _KINDS:
            raise UserError(
                f"'{path}' cannot be read as an index of vectors: only flat indices are read; write"
                " it with --mode=search --faiss"
            )
        _, dim, count, *_, floats = _HEADER.unpack(start.ljust(_HEADER.size, b"\0"))
        length, end = os.fstat(file.fileno()).st_size, _HEADER.size + 4 * floats
        whole = dim > 0 and count >= 0 and floats == dim * count and end <= length
        if not whole or length - end > _LONGEST_END or not _has_checksum(file, end):
            raise UserError(f"'{path}' is damaged: write it again with --mode=search --faiss")
        return RowFile(
            file.fileno(),
            name=str(path),
            data=_HEADER.size,
            shape=(count, dim),
            dtype=np.dtype("<f4"),
        )


def _has_checksum(file: BinaryIO, end: int) -> bool:
    """Return whether what follows an index is its checksum, or nothing, as faiss writes it."""
    file.seek(max(0, end - _LONGEST_END))
    last = file.read(min(end, _LONGEST_END))  # of the vectors
    given = file.read(_LONGEST_END)
    if not given.startswith(_SUM):  # a checksum among the vectors: some of their bytes are missing
        return _SUM not in last and (not given or given.startswith(_OLDER))
    digits, mark = given[len(_SUM) :][:_DIGITS], given[len(_SUM) + _DIGITS :]
    return digits == f"{zlib.crc32(mark, crc_of(file, 0, end)):08x}".encode()


def write_index(path: Path, features: np.ndarray | RowFile, mark: bytes, *, user: str) -> None:
    """Write an exact index of inner products, which faiss can open.

    The features are normalised to unit length as a whole. For queries of unit length, the inner
    products are the cosines that a search returns. The index is built in memory.

    Args:
      path: the file.
      features: [n, d]; may be a `RowFile`, or memory-mapped.
      mark: of the model's fingerprint, see `feature_file.mark`.
      user: see `import_faiss`.

    Raises: UserError if faiss is missing; OSError if the file cannot be written.
    """
    faiss = import_faiss(user)
    index = faiss.IndexFlatIP(features.shape[1])
    for start in range(0, len(features), ROWS_AT_ONCE):
        index.add(unit_length(read_rows(features, slice(start, start + ROWS_AT_ONCE))))
    with atomic_path(path) as temporary:
        try:
            faiss.write_index(index, str(temporary))
        except RuntimeError as error:  # faiss's type for an error of the disk
            raise OSError(one_line(error)) from error
        with temporary.open("r+b") as file:
            write_end(file, mark)


def write_end(file: BinaryIO, mark: bytes) -> None:
    """Write a checksum of an index and of a mark behind its end, and the mark.

    Args:
      file: of the index, open for reading and writing.
      mark: of the fingerprint.
    """
    length = file.seek(0, os.SEEK_END)
    digits = f"{zlib.crc32(mark, crc_of(file, 0, length)):08x}".encode()
    file.seek(length)
    file.write(_SUM + digits + mark)


def crc_of(file: BinaryIO, start: int, end: int) -> int:
    """Return the CRC-32 of the bytes of a file from `start` to before `end`."""
    file.seek(start)
    found, left = 0, end - start
    while part := file.read(min(left, 1 << 22)):
        found, left = zlib.crc32(part, found), left - len(part)
    return found


def read_end(file: BinaryIO, count: int) -> bytes:
    """Return the last bytes of a file."""
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - count))
    return file.read(count)


def import_faiss(user: str) -> Any:
    """Return the module `faiss`.

    Args:
      user: the argument that needs it, for the message.

    Raises: UserError if faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            f"{user} needs faiss, which is not installed: pip install 'batnet-jax[faiss]'"
        ) from error
    return faiss
