"""Feature files: the features of images, their paths and columns in an .npz.

`np.load` reads a feature file like any other .npz. The file is not compressed and its features
begin at a multiple of 64 bytes, so other programs can memory-map features larger than memory.

The comment of the .npz (a zip archive) holds the checksums of the features, block by block, and the
fingerprint of the model that embedded the images. An index for faiss has both behind its end, which
faiss does not read.
"""

import io
import os
import struct
import sys
import types
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from batnet_jax.errors import UserError, one_line, printable
from batnet_jax.evaluation.parquet.file import open_parquet, parquet_fingerprint
from batnet_jax.evaluation.parquet.write import SUFFIX as PARQUET_SUFFIX
from batnet_jax.evaluation.parquet.write import write_parquet
from batnet_jax.inference.block_sums import SumWriter, block_size, has_sums, read_sums
from batnet_jax.inference.columns import check_columns, is_name, read_columns
from batnet_jax.inference.index_end import crc_of, read_end
from batnet_jax.inference.index_file import open_index
from batnet_jax.inference.near_index import NearIndex
from batnet_jax.inference.shard_gallery import open_shards
from batnet_jax.inference.shards import is_shard_folder, read_manifest
from batnet_jax.retrieval.row_file import BlockSums, RowFile
from batnet_jax.runtime.atomic_write import atomic_path
from batnet_jax.runtime.npz import Npz, Place, open_npz, place_npy
from batnet_jax.runtime.paths import is_folder
from batnet_jax.runtime.read_files import open_regular, reason

INDEX_SUFFIX = ".index"
SUFFIXES = (".npz", PARQUET_SUFFIX, ".npy", INDEX_SUFFIX)
IN_MEMORY = 256 * 10**6
"""Bytes of features that are read into memory; more are read from the file at each search."""
NO_COLUMNS: Mapping[str, np.ndarray] = types.MappingProxyType({})
_ALIGNMENT = 64
_MARK = b"batnet_jax fingerprint "
_MARKED_BYTES = len(_MARK) + 32
_PADDING_ID = 0xD935  # zip extra field for alignment padding; Android's zipalign uses the same id


class FeatureFile(NamedTuple):
    """The contents of a feature file."""

    features: np.ndarray | RowFile
    """[n, d] of floats; a `RowFile` if they take more than `IN_MEMORY`; an approximate index."""
    paths: Sequence[str] | None
    """The n image paths; None if the file has none."""
    fingerprint: str | None = None
    """The fingerprint of the model that embedded the images; None if the file has none."""
    columns: Mapping[str, np.ndarray] = NO_COLUMNS
    """Further facts about the images, such as `camera`: by name, [n] of numbers or strings."""


def is_feature_file(path: Path) -> bool:
    """Return whether a path is a feature file, judged by its suffix, or a folder of shards."""
    if is_folder(path):
        return is_shard_folder(path)
    return path.suffix.lower() in SUFFIXES


def open_features(path: Path) -> FeatureFile:
    """Open an .npz with `features`, `paths` and columns, an .npy of features, or an index.

    The paths and the columns may be missing.

    Features that take more than `IN_MEMORY` stay in the file, unless they are compressed. An .index
    has no columns, and faiss holds an approximate index in memory. The checksums of an .npz are
    compared before its bytes are used or when they are first used. The checksum of an index that
    this package wrote is compared at once.

    Raises: UserError if the file cannot be read, is damaged, or has other contents.
    """
    suffix = path.suffix.lower()
    try:
        if is_folder(path):
            return _named(FeatureFile(*open_shards(path, IN_MEMORY)))
        if suffix == PARQUET_SUFFIX:
            return _named(FeatureFile(*open_parquet(path, IN_MEMORY)))
        if suffix == ".npy":
            return FeatureFile(_open_npy(path), None)
        if suffix == INDEX_SUFFIX:
            features, paths = open_index(path)
            rows = features if isinstance(features, NearIndex) else _in_memory(features)
            return FeatureFile(rows, paths, read_fingerprint(path))
        return _open_npz(path)
    except UserError:
        raise
    except Exception as error:  # damaged files raise many types
        why = reason(error) if isinstance(error, OSError) else one_line(error)
        wanted = "a .parquet" if suffix == PARQUET_SUFFIX else "an .npz"
        raise UserError(
            f"'{path}' cannot be read ({why}): give {wanted} that embed wrote, or an .npy"
        ) from error


def _named(found: FeatureFile) -> FeatureFile:
    """Return a feature file without the columns whose names no gallery can have."""
    return found._replace(columns={n: c for n, c in found.columns.items() if is_name(n)})


def read_fingerprint(path: Path) -> str | None:
    """Return the fingerprint of the model that embedded a file's images; None if there is none.

    Args:
      path: an .npz, a .parquet, a folder of shards, or an index for faiss; other files have none.

    Raises: UserError if the file cannot be read.
    """
    if is_folder(path):
        return read_manifest(path)[0].fingerprint
    if path.suffix.lower() == PARQUET_SUFFIX:
        return parquet_fingerprint(path)
    try:
        with open(open_regular(path), "rb") as file:  # a zip's comment is its end, too
            end = read_end(file, _MARKED_BYTES)
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({reason(error)})") from error
    return _find_mark(end)


def _find_mark(end: bytes) -> str | None:
    """Return the fingerprint in the last bytes of a file."""
    found = end.removeprefix(_MARK).decode("ascii", "replace")
    return found if end.startswith(_MARK) and found.isalnum() else None


def mark(fingerprint: str | None) -> bytes:
    """Return the bytes that end a file with this fingerprint; empty if there is none."""
    return _MARK + fingerprint.encode() if fingerprint else b""


def check_fingerprint(path: Path, found: str | None, wanted: str) -> None:
    """Check that a gallery was embedded by the model in use; warn if it has no fingerprint.

    Args:
      path: of the gallery.
      found: the gallery's fingerprint; None if the file has none.
      wanted: the model's.

    Raises: UserError for the fingerprint of another model.
    """
    if found is None:
        line = (
            f"warning: '{path}' does not say which model embedded it; if it was another model, the"
            " results mean nothing: embed the images again to be sure"
        )
        print(printable(line), file=sys.stderr)
    elif found != wanted:
        raise UserError(
            f"'{path}' was embedded by another model ({found[:8]}, this one is {wanted[:8]}: other"
            " weights, image size or preprocessing): embed the images with this model"
        )


def _open_npz(path: Path) -> FeatureFile:
    """Return the contents of an .npz."""
    with open_npz(path) as archive:
        if "features" not in archive.names:
            names = ", ".join(archive.names) or "nothing"
            raise UserError(f"'{path}' holds {names}, not `features`: give what embed wrote")
        paths = archive.read(["paths"])["paths"] if "paths" in archive.names else None
        place = archive.place("features")
        if place is not None:
            features = _open_rows(path, archive, place)
        else:
            features = archive.read(["features"])["features"]
            _check_type(path, features.shape, features.dtype)
        columns = read_columns(archive, len(features), is_ours=has_sums(archive.comment))
        fingerprint = _find_mark(archive.comment[-_MARKED_BYTES:])
    if paths is not None and (paths.ndim != 1 or paths.dtype.kind not in "US"):
        raise UserError(
            f"'{path}' holds paths of shape {paths.shape}, {paths.dtype}: must be strings [images]"
        )
    if paths is not None and len(paths) != len(features):
        raise UserError(
            f"'{path}' holds {len(features)} features and {len(paths)} paths: write it again"
        )
    names = None if paths is None else paths.astype(np.str_).tolist()
    return FeatureFile(features, names, fingerprint, columns)


def _open_npy(path: Path) -> np.ndarray | RowFile:
    """Return the features of an .npy, which has no checksums."""
    with open(open_regular(path), "rb") as file:
        place = place_npy(file, 0, os.fstat(file.fileno()).st_size)
        _check_type(path, place.shape, place.dtype)
        return _in_memory(_rows(path, file, place), place.is_fortran)


def _rows(path: Path, file: BinaryIO, place: Place, sums: BlockSums | None = None) -> RowFile:
    """Return the rows at a place in a file."""
    where = {"data": place.data, "shape": place.shape, "dtype": place.dtype}
    return RowFile(file.fileno(), name=str(path), **where, sums=sums)


def _open_rows(path: Path, archive: Npz, place: Place) -> np.ndarray | RowFile:
    """Return the features of an .npz that are not compressed.

    Raises: ValueError or UserError if they are damaged.
    """
    _check_type(path, place.shape, place.dtype)
    sums = read_sums(archive.comment, place.start, place.end)
    rows = _rows(path, archive.file, place, sums)
    if sums is None:  # NumPy's file, or of an older version: one checksum of all
        if crc_of(archive.file, place.start, place.end) != archive.crc("features"):
            raise ValueError("its features do not match their checksum")
    else:
        rows.check_bytes(place.start, place.data)  # the header
    return _in_memory(rows, place.is_fortran)


def _in_memory(rows: RowFile, is_fortran: bool = False) -> np.ndarray | RowFile:
    """Return rows in memory if they are few, or lie in columns."""
    if is_fortran:
        return rows[:].reshape(-1).reshape(rows.shape, order="F")
    return rows[:] if rows.nbytes <= IN_MEMORY else rows


def _check_type(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise a UserError unless a type is that of features."""
    if len(shape) != 2 or dtype.kind != "f":
        raise UserError(
            f"'{path}' holds features of shape {shape}, {dtype}: must be floats"
            " [images, dimensions]"
        )


def write_features(
    path: Path,
    batches: Iterable[np.ndarray],
    *,
    shape: tuple[int, int],
    paths: Sequence[str],
    fingerprint: str | None = None,
    columns: Mapping[str, np.ndarray] | Callable[[], Mapping[str, np.ndarray]] = NO_COLUMNS,
) -> None:
    """Write `features` [n, d] float32, `paths` [n], columns, checksums and the fingerprint.

    Args:
      path: the file, an .npz or a .parquet; appears when complete.
      batches: [b, d] float32, in order; n rows in total. Consumed one at a time.
      shape: n and d.
      paths: n names.
      fingerprint: of the model; None to leave it out.
      columns: see `FeatureFile`; each becomes an array of the .npz or a column of the .parquet, by
        its name. Or a function that returns them. For an .npz it is called after the last batch;
        for a .parquet before the first batch and again for each group of rows.

    Raises: UserError if a column does not fit; OSError if the file cannot be written; then an old
      file at the path is unchanged.
    """
    if not callable(columns):
        check_columns(columns, shape[0])
    if path.suffix.lower() == PARQUET_SUFFIX:

        def checked() -> dict[str, np.ndarray]:
            return check_columns(columns() if callable(columns) else columns, shape[0])

        about = {"fingerprint": fingerprint, "columns": checked}
        write_parquet(path, batches, shape=shape, paths=paths, **about)
        return
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        sums = SumWriter(block_size(len(header.getvalue()) + 4 * shape[0] * shape[1]))
        with _open_member(archive, file, "features.npy") as out:
            out.write(sums.add(header.getvalue()))
            for features in batches:
                rows = np.ascontiguousarray(features, "<f4").reshape(-1)
                out.write(sums.add(rows.view(np.uint8).data))
        archive.comment = sums.comment(mark(fingerprint))
        with _open_member(archive, file, "paths.npy") as out:
            np.lib.format.write_array(out, np.array(paths, np.str_), allow_pickle=False)
        found = columns() if callable(columns) else columns
        for name, values in check_columns(found, shape[0]).items():
            with _open_member(archive, file, f"{name}.npy") as out:
                np.lib.format.write_array(out, values, allow_pickle=False)


def _open_member(archive: zipfile.ZipFile, file: BinaryIO, name: str) -> Any:
    """Open a zip member for writing; its data begins at a multiple of `_ALIGNMENT`."""
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o644 << 16
    zip64 = 20  # bytes of the extra field that ZipFile puts before ours for an unknown size
    start = file.tell() + 30 + len(name.encode()) + zip64 + 4
    info.extra = struct.pack("<HH", _PADDING_ID, -start % _ALIGNMENT) + bytes(-start % _ALIGNMENT)
    return archive.open(info, "w", force_zip64=True)
