"""The columns of a gallery: facts about each image beside its feature, such as its camera."""

from collections.abc import Mapping, Sequence

import numpy as np

from batnet_jax.errors import UserError, printable
from batnet_jax.runtime.npz import Npz

RESERVED = ("features", "paths", "path")
"""Names of a feature file's own arrays, and of a .parquet's own columns."""
KINDS = "biufUS"
"""Kinds of the types of columns: booleans, integers, floats and strings."""
_MOST_NAME = 100
"""Limit of the bytes of a name."""


def check_columns(columns: Mapping[str, object], count: int) -> dict[str, np.ndarray]:
    """Return columns as arrays that a feature file can hold.

    Args:
      columns: by name, [n] booleans, integers, floats or strings.
      count: n.

    Raises: UserError if a name or a column is something else.
    """
    found = {}
    for name, values in columns.items():
        if not is_name(name):
            raise UserError(
                f"a column cannot be named {printable(repr(name))}: give up to {_MOST_NAME}"
                f" printable bytes without / and \\, and none of {', '.join(RESERVED)}"
            )
        array = np.asarray(values)
        if array.shape != (count,) or array.dtype.kind not in KINDS or not array.dtype.itemsize:
            raise UserError(
                f"the column {name} has the shape {array.shape} and the type {array.dtype}: must be"
                f" numbers, booleans or strings, one for each of the {count} images"
            )
        try:
            found[name] = as_column(array)
        except UnicodeDecodeError:
            raise UserError(f"the column {name} holds bytes that are not UTF-8") from None
    return found


def is_name(name: object) -> bool:
    """Return whether a column can have this name."""
    if not isinstance(name, str) or name in RESERVED or name != name.strip():
        return False
    is_plain = name.isprintable() and not set(name) & set("/\\")
    return is_plain and 0 < len(name.encode(errors="replace")) <= _MOST_NAME


def as_column(array: np.ndarray) -> np.ndarray:
    """Convert an array to this machine's order of bytes, and bytes to strings.

    Raises: UnicodeDecodeError if bytes are not UTF-8.
    """
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def read_columns(archive: Npz, count: int, *, is_ours: bool) -> dict[str, np.ndarray]:
    """Read the columns of a feature file.

    Arrays of other shapes and types are ignored, because files of other programs may hold them.

    Args:
      archive: the open file.
      count: the number of images.
      is_ours: whether `write_features` wrote the file; all its further arrays are then columns.

    Raises: ValueError if the file is damaged, or a column lacks values or has too many.
    """
    names = []
    for name in archive.names:
        if name in RESERVED:
            continue
        shape, dtype = archive.describe(name)
        if is_name(name) and len(shape) == 1 and dtype.kind in KINDS and dtype.itemsize:
            if shape != (count,):
                raise ValueError(f"its column {name} has {shape[0]} values for {count} images")
            names.append(name)
        elif is_ours:
            raise ValueError(f"its array {printable(name)} is not a column")
    if is_ours and archive.members != len(archive.names):
        raise ValueError("its list of arrays is damaged")
    return {name: as_column(array) for name, array in archive.read(names).items()}


def join_columns(
    parts: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray]], count: int
) -> dict[str, np.ndarray]:
    """Return the columns of images whose values come from several tables.

    A value that no table has is missing: NaN among numbers, which makes integers floats, and ""
    among texts. Numbers and texts of one name become texts.

    Args:
      parts: columns [n], and for each image its row in them, [count] int64; -1 for none. A later
        table's value comes before an earlier one's.
      count: images.
    """
    names = dict.fromkeys(name for columns, _ in parts for name in columns)
    return {
        name: _join([(columns[name], rows) for columns, rows in parts if name in columns], count)
        for name in names
    }


def _join(parts: Sequence[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """Return one column; see `join_columns`."""
    used = [(values, rows) for values, rows in parts if (rows >= 0).any()] or list(parts[:1])
    has_text = any(values.dtype.kind == "U" for values, _ in used)
    if has_text:
        used = [(_as_text(values), rows) for values, rows in used]
    is_whole = np.zeros(count, bool)
    for _, rows in used:
        is_whole |= rows >= 0
    types = [values.dtype for values, _ in used]
    if not has_text and not is_whole.all():
        types.append(np.dtype(np.float64))
    joined = np.zeros(count, np.result_type(*types))
    if not has_text and not is_whole.all():
        joined[:] = np.nan
    for values, rows in used:
        joined[rows >= 0] = values[rows[rows >= 0]]
    return joined


def _as_text(values: np.ndarray) -> np.ndarray:
    """Return numbers as texts, whole ones without a point and NaN as ""."""
    if values.dtype.kind == "U":
        return values
    if values.dtype.kind != "f":
        return values.astype(np.str_)
    shown = [
        "" if np.isnan(value) else str(int(value)) if value.is_integer() else repr(value)
        for value in values.astype(np.float64).tolist()
    ]
    return np.array(shown, np.str_) if shown else np.empty(0, "<U1")
