"""The features of Parquet files of other programs, unpacked once."""

import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from batnet_jax.data.files.columns import FEATURES as NAMES
from batnet_jax.data.files.columns import find_name
from batnet_jax.errors import UserError, one_line, printable
from batnet_jax.evaluation.parquet.facts import Facts
from batnet_jax.retrieval.row_file import RowFile, aligned_array

_VALUES_AT_ONCE = 2**22
MAX_DIM = 2**20
"""Limit of d: a file of few bytes may unpack to lists of any length."""


def find_features(path: Path, schema: Any) -> str:
    """Return the name of the column of features: `features`, or another usual name.

    Raises: UserError if no column of lists of floats has such a name.
    """
    lists = [field.name for field in schema if _is_features(field.type)]
    named = find_name(NAMES[:1], schema.names) or find_name(NAMES, lists)
    if named is None:
        named = find_name(NAMES, schema.names)
    if named is None:
        shown = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise UserError(
            f"'{path}' has the columns {printable(one_line(shown))}, and no `features`: give lists"
            " of floats this name"
        )
    if schema.names.count(named) > 1:
        raise UserError(f"'{path}' has two columns named {printable(named)}: keep one")
    if named not in lists:
        kind = one_line(str(schema.field(named).type))
        raise UserError(
            f"'{path}' has {printable(named)} of the type {kind}: must be lists of floats (32, 16"
            " or 64 bits), all of one length"
        )
    return named


def unpack(
    path: Path, batches: Iterator[np.ndarray], count: int, in_memory: int
) -> np.ndarray | RowFile:
    """Return features, in memory if they are few, otherwise in a temporary file.

    Args:
      path: of the file or the folder, for messages.
      batches: of `read_batches`.
      count: n, the number of all rows.
      in_memory: bytes that may be in memory.

    Raises: UserError if a row is not as described, or the disk has no room; ValueError if the
      number of rows is not n, or a checksum differs.
    """
    first = next(batches, None)
    if first is None:
        raise ValueError("it has fewer rows than it says")
    shape, dtype = (count, first.shape[1]), first.dtype
    size = count * shape[1] * dtype.itemsize
    if size <= in_memory:
        out = aligned_array(shape, dtype)
        done = 0
        for rows in _all(first, batches, count):
            out[done : done + len(rows)] = rows
            done += len(rows)
        return out
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"'{path}' takes {size / 1e9:,.1f} GB where it is unpacked, and '{folder}' has"
            f" {free / 1e9:,.1f}: set TMPDIR to another folder"
        )
    line = f"note: '{path}' is unpacked once, into {size / 1e9:,.1f} GB of '{folder}'"
    print(printable(line), file=sys.stderr)
    try:
        with tempfile.TemporaryFile() as file:
            for rows in _all(first, batches, count):
                file.write(np.ascontiguousarray(rows).view(np.uint8).data)
            file.flush()
            return RowFile(file.fileno(), name=str(path), data=0, shape=shape, dtype=dtype)
    except OSError as error:
        if error.errno is None:  # an error of the Parquet file
            raise
        raise UserError(
            f"'{path}' cannot be unpacked into '{folder}' ({os.strerror(error.errno)}): set TMPDIR"
            " to another folder"
        ) from error


def _is_features(kind: Any) -> bool:
    """Return whether a type of Arrow is one of lists of floats."""
    from pyarrow import types  # type: ignore

    is_list = types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind)
    return is_list and types.is_floating(kind.value_type)


def _all(first: np.ndarray, rest: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Yield all rows.

    Raises: ValueError if there are not `count`.
    """
    yield first
    done = len(first)
    for rows in rest:
        done += len(rows)
        if done > count:
            break
        yield rows
    if done != count:
        raise ValueError("it has another number of rows than it says")


def read_batches(path: Path, parquet: Any, name: str, facts: Facts | None) -> Iterator[np.ndarray]:
    """Yield features, [m, d], with at most a part of a row group in memory at a time.

    Args:
      path: of the file.
      parquet: pyarrow's `ParquetFile`.
      name: of the column.
      facts: with the checksums of the features; None = compare no checksums.

    Raises: UserError if a row has another length than the first, or a value is missing or NaN;
      ValueError if a checksum differs.
    """
    dim, done, at_once = None, 0, 256
    for group in range(parquet.metadata.num_row_groups):
        found = 0
        for batch in parquet.iter_batches(at_once, row_groups=[group], columns=[name]):
            rows = _to_rows(path, batch.column(0), dim, done)
            if not np.isfinite(rows).all():
                row = done + int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
                raise UserError(
                    f"'{path}' has NaN or an infinite value in row {row}: leave the row out"
                )
            if facts is not None:
                found = zlib.crc32(rows.view(np.uint8).reshape(-1).data, found)
            dim, done = rows.shape[1], done + len(rows)
            yield rows
        if facts is not None and found != facts.sums[group]:
            raise ValueError("its features do not match their checksum")
        if dim:
            at_once = max(1, _VALUES_AT_ONCE // dim)


def _to_rows(path: Path, column: Any, dim: int | None, done: int) -> np.ndarray:
    """Return lists of floats as [m, d].

    Args:
      path: of the file, for messages.
      column: pyarrow's array of lists.
      dim: d; None to take the first row's.
      done: rows before.

    Raises: UserError if a list has another length, or something is missing.
    """
    import pyarrow.compute as pc  # type: ignore

    if column.null_count:
        row = done + column.is_null().to_pylist().index(True)
        raise UserError(f"'{path}' has no features in row {row}: leave the row out")
    lengths = np.asarray(pc.call_function("list_value_length", [column]))
    dim = int(lengths[0]) if dim is None else dim
    if not 0 < dim <= MAX_DIM:
        raise UserError(f"'{path}' has {dim} numbers in row {done}: at most {MAX_DIM:,} are read")
    if (lengths != dim).any():
        place = int(np.flatnonzero(lengths != dim)[0])
        raise UserError(
            f"'{path}' has {lengths[place]} numbers in row {done + place}, and {dim} in rows before"
            " it: all must have one length"
        )
    values = column.flatten()
    if values.null_count:
        row = done + values.is_null().to_pylist().index(True) // dim
        raise UserError(f"'{path}' lacks a number in row {row}: leave the row out")
    return values.to_numpy(zero_copy_only=False).reshape(-1, dim)
