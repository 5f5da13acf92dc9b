"""Image sets in several files of features, read from the disk on demand."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from batnet_jax.errors import UserError, one_line
from batnet_jax.evaluation.labelled_features import (
    IN_MEMORY,
    SIDES,
    Labelled,
    LabelledPair,
    labelled,
    read_arrays,
    read_pair,
    read_parquet,
)
from batnet_jax.retrieval.chosen_rows import JoinedRows
from batnet_jax.retrieval.row_file import RowFile
from batnet_jax.runtime.npz import Place, open_npz, place_npy
from batnet_jax.runtime.paths import is_folder
from batnet_jax.runtime.read_files import open_regular, reason

SUFFIXES = (".npz", ".npy", ".parquet")
LEAST_BYTES = 2**20
"""Features of fewer bytes are read into memory, as all labels are."""


def read_large_pair(query: Path, gallery: Path | None, distances: Path | None) -> LabelledPair:
    """Read what `read_pair` reads, or a set in a large file or in a folder of files.

    Args:
      query: see `read_pair`; or a folder, see `read_shards`.
      gallery: see `read_pair`; or a folder.
      distances: see `read_pair`; not with a folder.

    Raises: UserError if a file cannot be read, or something is missing.
    """
    if gallery is None or distances is not None or not (_is_large(query) or _is_large(gallery)):
        return read_pair(query, gallery, distances)
    return LabelledPair(_read_set(query, "query"), _read_set(gallery, "gallery"), None)


def _read_set(path: Path, side: str) -> Labelled:
    """Return the images of a folder or of a file."""
    prefixes = ("", *SIDES[side])
    if is_folder(path):
        return read_shards(path, prefixes)
    if _is_large(path):
        return _read_shard(path, prefixes)
    return labelled(path, read_arrays(path), prefixes, features=True)


def _is_large(path: Path) -> bool:
    """Return whether a path is a folder, or a file that is not read into memory."""
    if is_folder(path):
        return True
    try:
        return path.suffix.lower() in SUFFIXES and path.stat().st_size > IN_MEMORY
    except OSError:  # `read_pair` says what is wrong
        return False


def read_shards(folder: Path, prefixes: Sequence[str]) -> Labelled:
    """Return the images of all .npz, .npy and .parquet in a folder, in the order of their names.

    A .csv beside a file may hold its labels, as for a single file. The features stay in the files,
    unless they are compressed or few. Cameras and paths are None unless every file has some.

    Args:
      folder: the files lie in it, not below.
      prefixes: of the names of arrays, see `labelled`.

    Raises: UserError if the folder has no files, or a file cannot be read, lacks something or does
      not fit.
    """
    try:
        found = os.listdir(folder)
    except OSError as error:
        raise UserError(f"'{folder}' cannot be read ({reason(error)})") from error
    names = sorted(name for name in found if Path(name).suffix.lower() in SUFFIXES)
    if not names:
        raise UserError(f"'{folder}' holds no {' and no '.join(SUFFIXES)}: give files of features")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # checksums take a second a GB
        shards = list(pool.map(lambda name: _read_shard(folder / name, prefixes), names))
    dims = [shard.features.shape[1] for shard in shards if shard.features is not None]
    if other := next((k for k, dim in enumerate(dims) if dim != dims[0]), 0):
        raise UserError(
            f"'{folder / names[other]}' has features of {dims[other]} dimensions, and"
            f" '{names[0]}' of {dims[0]}: leave one out"
        )
    parts = [shard.features for shard in shards if shard.features is not None]
    return Labelled(
        JoinedRows(parts),
        _join([shard.pids for shard in shards]),
        _join([shard.cameras for shard in shards]),
        _join([shard.paths for shard in shards]),
    )


def _join(columns: Sequence[Any]) -> Any:
    """Concatenate arrays, as texts if one holds texts; None if one is None."""
    if any(column is None for column in columns):
        return None
    arrays = [np.asarray(column) for column in columns]
    if any(array.dtype.kind in "US" for array in arrays):
        arrays = [array.astype(str) for array in arrays]
    return np.concatenate(arrays)


def _read_shard(path: Path, prefixes: Sequence[str]) -> Labelled:
    """Return the images of a file; its features as a `RowFile` if they can stay in it."""
    if path.suffix.lower() == ".parquet":
        arrays = read_parquet(path, LEAST_BYTES)
        return labelled(path, arrays, prefixes, features=True)
    try:
        features = _open_npz(path) if path.suffix.lower() == ".npz" else _open_npy(path)
    except UserError:
        raise
    except Exception as error:  # damaged files raise many types
        why = reason(error) if isinstance(error, OSError) else one_line(error)
        raise UserError(f"'{path}' cannot be read ({why}): write it again") from error
    arrays = read_arrays(path, without=list(features))
    found = labelled(path, arrays | features, prefixes, features=True)
    assert found.features is not None
    count, dim = len(found.pids), found.features.ndim
    if dim != 2 or len(found.features) != count:
        raise UserError(
            f"'{path}' holds features of shape {found.features.shape} and {count} identities:"
            " it needs a row for each"
        )
    return found


def _open_npz(path: Path) -> dict[str, Any]:
    """Return the large matrices of an .npz that are not compressed, after a look at checksums."""
    found = {}
    with open_npz(path) as archive:
        for name in archive.names:
            place = archive.place(name)
            if place is not None and _stays(place):
                archive.check(name)
                found[name] = _rows(archive.file, path, place)
    return found


def _open_npy(path: Path) -> dict[str, Any]:
    """Return the matrix of an .npy if it is large."""
    with open(open_regular(path), "rb") as file:
        place = place_npy(file, 0, os.fstat(file.fileno()).st_size)
        return {"features": _rows(file, path, place)} if _stays(place) else {}


def _stays(place: Place) -> bool:
    """Return whether an array is a large matrix of floats, row after row."""
    is_matrix = len(place.shape) == 2 and place.dtype.kind == "f" and not place.is_fortran
    return is_matrix and place.end - place.data > LEAST_BYTES


def _rows(file: Any, path: Path, place: Place) -> RowFile:
    where = {"data": place.data, "shape": place.shape, "dtype": place.dtype}
    return RowFile(file.fileno(), name=str(path), **where)
