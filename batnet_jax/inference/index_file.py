"""Indices for faiss: flat ones by our own reader, approximate ones by faiss.

faiss trusts the sizes that a file declares, and a damaged file may take all memory. A flat index is
a header and the vectors, so this package reads and writes it without faiss. faiss itself reads an
approximate index, and only one that this package wrote and that matches its checksum.
`index_end` describes what follows an index in its file. Older versions wrote `batnet_jax crc32`, 8
digits and the fingerprint behind a flat index, or only the fingerprint.
"""

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from batnet_jax.errors import UserError, one_line
from batnet_jax.inference import near_index
from batnet_jax.inference.index_end import IndexEnd, crc_of, read_index_end, recall_of, write_end
from batnet_jax.inference.near_index import import_faiss
from batnet_jax.retrieval.mapped_rows import read_rows
from batnet_jax.retrieval.row_file import RowFile
from batnet_jax.retrieval.scores import unit_length
from batnet_jax.runtime.atomic_write import atomic_path
from batnet_jax.runtime.read_files import open_regular

KINDS = ("auto", "flat", "hnsw", "ivfpq")
"""The kinds of index that `write_index` can write."""
FLAT_BELOW, HNSW_BELOW = 100_000, 3_000_000
"""Images below which `auto` takes a flat index, or HNSW."""
_FLAT = (b"IxFI", b"IxF2")
"""Marks of flat indices, of inner products and of Euclidean distances."""
_HEADER = struct.Struct("<4siqqq?iQ")
"""Kind, dimensions, vectors, two numbers without a meaning, is trained, metric, floats."""
_UNUSED = 1 << 20
"""The numbers without a meaning, as faiss writes them."""
_INNER_PRODUCT = 0
_SUM = b"batnet_jax crc32 "
_OLDER = b"batnet_jax fingerprint "
_DIGITS = 8
ROWS_AT_ONCE = 2**14
"""Features that are read and added to an index at a time."""
_LONGEST_END = 200
"""Limit of the bytes that an older version wrote behind the vectors."""


class Written(NamedTuple):
    """An index that has been written."""

    kind: str
    """flat, hnsw or ivfpq."""
    recall: float | None
    """The share of the best ten that it finds; None for a flat index, which finds all."""


def open_index(path: Path) -> tuple[RowFile, list[str] | None]:
    """Open the vectors of a flat index, or an approximate index, and the paths of the images.

    The paths are None if the index does not name its images.

    Raises: OSError if the file cannot be read; UserError if it is damaged, or an index that is
      neither flat nor ours.
    """
    with open(open_regular(path), "rb") as file:
        start = file.read(_HEADER.size)
        try:
            end = read_index_end(file)
        except ValueError as error:
            raise UserError(
                f"'{path}' is damaged: write it again with --mode=search --faiss"
            ) from error
        if start[:4] in _FLAT:
            return _open_flat(path, file, start, end), end.paths if end else None
        if end is None:
            raise UserError(
                f"'{path}' cannot be read as an index of vectors: only flat indices are read, and "
                "others that this package wrote whole; write it with --mode=search --faiss"
            )
        index = near_index.read(path, file, end.length, str(end.facts.get("kind")), recall_of(end))
        if end.paths is not None and len(end.paths) != len(index):
            raise UserError(f"'{path}' names {len(end.paths)} of {len(index)} images: write it new")
        return index, end.paths


def _open_flat(path: Path, file: BinaryIO, start: bytes, end: IndexEnd | None) -> RowFile:
    """Open the vectors of a flat index.

    Raises: UserError if it is damaged.
    """
    _, dim, count, *_, floats = _HEADER.unpack(start.ljust(_HEADER.size, b"\0"))
    length, last = os.fstat(file.fileno()).st_size, _HEADER.size + 4 * floats
    whole = dim > 0 and count >= 0 and floats == dim * count and last <= length
    if whole and end is None:
        whole = length - last <= _LONGEST_END and _has_checksum(file, last)
    elif whole and end is not None:
        whole = end.length == last and (end.paths is None or len(end.paths) == count)
    if not whole:
        raise UserError(f"'{path}' is damaged: write it again with --mode=search --faiss")
    return RowFile(
        file.fileno(),
        name=str(path),
        data=_HEADER.size,
        shape=(count, dim),
        dtype=np.dtype("<f4"),
    )


def _has_checksum(file: BinaryIO, end: int) -> bool:
    """Return whether what follows an index is an older checksum, or nothing, as faiss writes it."""
    file.seek(max(0, end - _LONGEST_END))
    last = file.read(min(end, _LONGEST_END))  # the end of the vectors
    given = file.read(_LONGEST_END)
    if not given.startswith(_SUM):  # a checksum among the vectors: some of their bytes are missing
        return _SUM not in last and (not given or given.startswith(_OLDER))
    digits, mark = given[len(_SUM) :][:_DIGITS], given[len(_SUM) + _DIGITS :]
    return digits == f"{zlib.crc32(mark, crc_of(file, 0, end)):08x}".encode()


def choose_kind(kind: str, count: int, user: str) -> str:
    """Return the kind of index for a number of images: flat, hnsw or ivfpq.

    Args:
      kind: one of `KINDS`.
      count: images.
      user: the argument that names the kind, for messages.

    Raises: UserError for another kind, or if there are too few images for it.
    """
    if kind not in KINDS:
        raise UserError(f"{user}={kind!r} is not one of {', '.join(KINDS)}")
    if kind == "auto":
        kind = "flat" if count < FLAT_BELOW else "hnsw" if count < HNSW_BELOW else "ivfpq"
    least = {"flat": 0, "hnsw": 1, "ivfpq": near_index.LEAST_TRAINING}[kind]
    if count < least:
        raise UserError(
            f"{user}={kind} needs {least:,} images, and the gallery has {count:,}: use flat"
        )
    return kind


def write_index(
    path: Path,
    features: np.ndarray | RowFile,
    mark: bytes,
    *,
    user: str,
    paths: Sequence[str] | None = None,
    kind: str = "flat",
) -> Written:
    """Write an index of inner products, which faiss can open.

    The features are normalised to unit length as a whole. For queries of unit length, the inner
    products are the cosines that a search returns. Features are read block by block: a flat index
    takes the memory of a block, an approximate one the memory of the index.

    Args:
      path: the file.
      features: [n, d]; may be a `RowFile`, or memory-mapped.
      mark: of the model's fingerprint, see `feature_file.mark`.
      user: see `import_faiss`.
      paths: of the images, to be named in a search; None if they are not known.
      kind: flat, hnsw or ivfpq, see `choose_kind`.

    Raises: UserError if faiss is missing; OSError if the file cannot be written.
    """
    faiss = import_faiss(user)
    if kind == "flat":
        with atomic_path(path) as temporary, temporary.open("r+b") as file:
            _write_flat(file, features)
            write_end(file, mark, paths, {"kind": kind})
        return Written(kind, None)
    index, recall = near_index.build(features, kind, ROWS_AT_ONCE, user)
    with atomic_path(path) as temporary:
        try:
            faiss.write_index(index, str(temporary))
        except RuntimeError as error:  # faiss's type for an error of the disk
            raise OSError(one_line(error)) from error
        with temporary.open("r+b") as file:
            write_end(file, mark, paths, {"kind": kind, "recall": recall})
    return Written(kind, recall)


def _write_flat(file: BinaryIO, features: np.ndarray | RowFile) -> None:
    """Write a flat index of inner products, byte by byte as faiss does."""
    count, dim = features.shape
    sizes = dim, count, _UNUSED, _UNUSED
    file.write(_HEADER.pack(_FLAT[0], *sizes, True, _INNER_PRODUCT, dim * count))
    for start in range(0, count, ROWS_AT_ONCE):
        rows = unit_length(read_rows(features, slice(start, start + ROWS_AT_ONCE)))
        file.write(np.ascontiguousarray(rows, "<f4").reshape(-1).view(np.uint8).data)
