"""Features, identities and cameras from files of other frameworks, found by their usual names.

.npz and .mat: arrays of one set, as `features`, `pids`, `cameras`, `paths`; or of both sets, as
`query_f`, `query_label`, `query_cam`, `gallery_f` (layumi's `pytorch_result.mat`); or a distance
matrix `distmat` with `q_pids`, `g_pids`, `q_camids`, `g_camids` (Torchreid, FastReID).
.parquet: a column of features, and columns `pid`, `camera`, `path`.
.npy: features, or a distance matrix.
.csv: identities, cameras and paths, a row for each image; beside an .npy or .npz of the same name.
"""

import csv
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from batnet_jax.data.files.columns import (
    CAMERAS,
    FEATURES,
    MISSING,
    PATHS,
    PIDS,
    cut_fractions,
    plain,
)
from batnet_jax.data.files.matlab_v5 import MAX_BYTES, read_mat
from batnet_jax.errors import UserError, one_line
from batnet_jax.evaluation.parquet.file import open_parquet
from batnet_jax.runtime.npz import open_npz, place_npy
from batnet_jax.runtime.paths import exists
from batnet_jax.runtime.read_files import open_regular, read_bytes, reason

DISTANCES = ("distmat", "distances", "distance", "dists", "dist", "distancematrix")
SUFFIXES = (".npz", ".parquet", ".mat", ".npy", ".csv")
MOST_UNPACKED = 20
"""Limit of the unpacked size of a compressed .mat, in sizes of the file."""
IN_MEMORY = 10**9
"""Bytes of an .npy of distances that are read into memory. A larger file is memory-mapped."""
SIDES = {"query": ("query_", "q_", "q"), "gallery": ("gallery_", "g_", "g")}


class Labelled(NamedTuple):
    """The images of one set."""

    features: Any
    """[n, d], an array or a `RowFile`; None for a file that holds only labels."""
    pids: np.ndarray
    """[n] integers or strings."""
    cameras: Any
    """[n] integers, strings or None; or None for all."""
    paths: np.ndarray | None
    """[n] strings; None if the file has none."""


class LabelledPair(NamedTuple):
    """A query set and its gallery."""

    query: Labelled
    gallery: Labelled
    distances: np.ndarray | None
    """[q, g], in place of features."""


def read_pair(query: Path, gallery: Path | None, distances: Path | None = None) -> LabelledPair:
    """Read two files, or one file that holds both sets.

    Args:
      query: of the queries, or of both sets if `gallery` is None.
      gallery: of the gallery.
      distances: an .npy of distances [q, g]; the other files then need no features.

    Raises: UserError if a file cannot be read, or something is missing.
    """
    arrays = read_arrays(query)
    if gallery is None:
        matrix = _find(arrays, ("",), DISTANCES) if distances is None else _read_matrix(distances)
        sides = [
            labelled(query, arrays, prefixes, features=matrix is None, beside=False)
            for prefixes in SIDES.values()
        ]
        return LabelledPair(sides[0], sides[1], matrix)
    matrix = None if distances is None else _read_matrix(distances)
    sides = [
        labelled(path, found, ("", *prefixes), features=matrix is None)
        for path, found, prefixes in zip(
            (query, gallery), (arrays, read_arrays(gallery)), SIDES.values(), strict=True
        )
    ]
    return LabelledPair(sides[0], sides[1], matrix)


def read_arrays(path: Path, without: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Return the arrays of a file by their names in small letters; an .npy's is `features`.

    Args:
      path: the file.
      without: names of arrays that are left out, as the file spells them.

    Raises: UserError if the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"'{path}' is not a file of features: give {', '.join(SUFFIXES)}")
    try:
        if suffix == ".csv":
            return _read_csv(path)
        if suffix == ".parquet":
            return read_parquet(path)
        if suffix == ".npy":
            return {} if without else {"features": _read_npy(path)}
        if suffix == ".mat":
            return _read_mat(path)
        with open_npz(path) as archive:
            names = [name for name in archive.names if name not in without]
            return {name.lower(): array for name, array in archive.read(names).items()}
    except UserError:
        raise
    except Exception as error:  # damaged files raise many types
        why = reason(error) if isinstance(error, OSError) else one_line(error)
        raise UserError(f"'{path}' cannot be read ({why}): write it again") from error


def _read_npy(path: Path) -> np.ndarray:
    """Read an .npy, or memory-map one that is larger than `IN_MEMORY`.

    The system ends a process by a signal if the process touches a mapped file that has been cut
    off. A file that is read raises an exception instead.

    Raises: OSError or ValueError if the file is damaged, or not a regular file.
    """
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        place = place_npy(file, 0, size)
        order = "F" if place.is_fortran else "C"
        if size > IN_MEMORY and 0 not in place.shape:  # nothing can be mapped
            return np.memmap(file, place.dtype, "r", place.data, place.shape, order)
        array = np.empty(place.shape, place.dtype, order)
        file.seek(place.data)
        if file.readinto(array.reshape(-1, order="A").view(np.uint8).data) != array.nbytes:
            raise ValueError("it has been cut off")
        return array


def read_parquet(path: Path, in_memory: int = sys.maxsize) -> dict[str, Any]:
    """Return the features of a .parquet, and its other columns.

    Args:
      path: the file.
      in_memory: limit of the bytes of features that are read; more stay in the file.

    Raises: UserError if the file cannot be read.
    """
    found = open_parquet(path, in_memory)
    arrays = {name.lower(): column for name, column in found.columns.items()}
    if found.paths is not None:
        arrays["path"] = np.array(list(found.paths), np.str_)
    return arrays | {"features": found.features}


def _read_mat(path: Path) -> dict[str, np.ndarray]:
    """Read the numbers and strings of a .mat; `scipy.io.loadmat` crashes on damaged files."""
    content = read_bytes(path)
    if content.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise UserError(
            f"'{path}' is a .mat of version 7.3: save it with scipy.io.savemat, or as .npz"
        )
    most = len(content) * MOST_UNPACKED + MAX_BYTES
    found = read_mat(content, None, shaped=True, most=most)
    return {name.lower(): np.asarray(value) for name, value in found.items()}


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    """Read a table: with a first row of names, or else of pid and camera; see `PIDS`."""
    with open(open_regular(path), encoding="utf-8-sig", newline="") as file:
        mark = max(",;\t", key=file.readline().count)
        file.seek(0)
        rows = [row for row in csv.reader(file, delimiter=mark) if any(row)]
    if not rows:
        raise UserError(f"'{path}' is empty: write a row for each image")
    names = [cell.strip().lower() for cell in rows[0]]
    known = {*PIDS, *(prefix + name for prefix in ("query", "gallery") for name in PIDS)}
    if {plain(name) for name in names} & known:
        rows = rows[1:]
    elif len(names) <= 2 and (exists(path.with_suffix(".npy")) or _is_number(names[0])):
        names = ["pid", "camera"][: len(names)]
    else:
        raise UserError(
            f"'{path}' begins with {', '.join(rows[0])[:80]}: its first row must name the columns,"
            " as in pid,camera"
        )
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise UserError(f"'{path}' has {len(row)} cells in row {number}, not {len(names)}")
    columns = zip(*rows, strict=True)
    return {
        name: np.array([cell.strip() for cell in column])
        for name, column in zip(names, columns, strict=False)
    }


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _read_matrix(path: Path) -> np.ndarray:
    """Read a distance matrix.

    Raises: UserError if the file does not hold one matrix.
    """
    arrays = read_arrays(path)
    matrix = _find(arrays, ("",), (*DISTANCES, "features"))
    if matrix is None or matrix.ndim != 2:
        raise UserError(f"'{path}' holds no distance matrix: name it `distmat`, or give an .npy")
    return matrix


def _find(
    arrays: Mapping[str, np.ndarray], prefixes: Sequence[str], names: Sequence[str]
) -> np.ndarray | None:
    """Return the first array that has one of the prefixes and names; marks in names are ignored."""
    named = {plain(name): array for name, array in arrays.items()}
    wanted = (plain(prefix + name) for prefix in prefixes for name in names)
    return next((named[name] for name in wanted if name in named), None)


def labelled(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    prefixes: Sequence[str],
    *,
    features: bool,
    beside: bool = True,
) -> Labelled:
    """Return the images of one set.

    Args:
      path: of the file, for messages; a .csv beside it gives what the file lacks.
      arrays: of the file.
      prefixes: of the names.
      features: whether they are needed.
      beside: whether a .csv beside the file may hold the labels.

    Raises: UserError if features or identities are missing.
    """
    table = path.with_suffix(".csv")
    found = dict(arrays)
    if beside and _find(found, prefixes, PIDS) is None and table != path:
        found |= read_arrays(table) if exists(table) else {}
    pids = _find(found, prefixes, PIDS)
    matrix = _find(found, prefixes, FEATURES) if features else None
    missing = "identities" if pids is None else "features" if features and matrix is None else ""
    if missing or pids is None:
        example = (FEATURES if missing == "features" else PIDS)[0]
        side = "" if "" in prefixes else prefixes[0]
        hint = f", or write a table '{table}'" if beside and missing == "identities" else ""
        hint += "" if beside else ", or give a second file, of the gallery"
        raise UserError(
            f"'{path}' holds {', '.join(arrays) or 'nothing'}, and no {missing}: name them"
            f" `{side}{example}`{hint}"
        )
    cameras, paths = _find(found, prefixes, CAMERAS), _find(found, prefixes, PATHS)
    numbers = _vector(pids)
    texts = numbers.ravel().tolist() if numbers.dtype.kind not in "iu" else ()
    lost = [str(pid).lower() in MISSING for pid in texts]
    if any(lost):
        raise UserError(
            f"'{path}' has {sum(lost)} images without an identity, first in row {lost.index(True)}:"
            " leave them out, or give the identity -1, which is ignored"
        )
    return Labelled(
        matrix,
        numbers,
        None if cameras is None else _vector(cameras),
        None if paths is None else _vector(paths).astype(str),
    )


def _vector(array: np.ndarray) -> np.ndarray:
    """Return [1, n] and [n, 1], MATLAB's forms of a vector, as [n]; whole numbers as integers.

    Whole numbers beside NaN, as in tables with missing values, become texts: the digits, and "" for
    NaN. Texts such as 1.0 lose the fraction.
    """
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.dtype.kind == "f" and not np.isinf(array).any():
        lost = np.isnan(array)
        whole = np.where(lost, 0, array)
        if (whole == np.round(whole)).all():
            numbers = whole.astype(np.int64)
            return np.where(lost, "", numbers.astype(str)) if lost.any() else numbers
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "surrogateescape")
    if array.dtype.kind == "U":  # MATLAB pads the rows of a matrix of characters
        array = np.char.strip(array)
        array = np.array(cut_fractions(array.ravel().tolist()), str).reshape(array.shape)
    return array


def join_numbers(query: Any, gallery: Any, *, missing: bool = False) -> tuple[Any, Any]:
    """Turn the labels of two sets into integers if all are the text of whole numbers.

    Args:
      query: [q] integers or strings.
      gallery: [g].
      missing: the texts of `MISSING` stand for missing labels, which become None; and 1 and 01
        are one label.

    Raises: UserError if two labels would become one number, unless `missing`.
    """
    if query is None or gallery is None:
        return query, gallery
    if all(getattr(one, "dtype", np.dtype(object)).kind in "iu" for one in (query, gallery)):
        return query, gallery
    texts = [np.asarray(one).astype(str).tolist() for one in (query, gallery)]
    lost = MISSING if missing else ()
    known = {text for one in texts for text in one if text.lower() not in lost}
    table: dict[str, Any] = {text: text for text in known}
    if all(_is_number(text) for text in known):
        table = {text: int(text) for text in sorted(known)}
        spelled = {number: text for text, number in table.items()}
        twice = next((text for text in sorted(known) if spelled[int(text)] != text), None)
        if twice and not missing:
            other = spelled[int(twice)]
            raise UserError(
                f"the identities '{twice}' and '{other}' are one number: spell them alike"
            )
    both = [[table.get(text) for text in one] for one in texts]
    return both[0], both[1]
