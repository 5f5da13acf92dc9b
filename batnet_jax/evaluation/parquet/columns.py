"""The columns of a Parquet file beside features and paths, as arrays of NumPy."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from batnet_jax.evaluation.parquet.facts import Digest, Facts

MAX_BYTES = 4 * 10**9
"""Limit of a column."""
_ROWS_AT_ONCE = 2**16


def read_columns(
    parquet: Any, *, leave_out: Sequence[str | None], facts: Facts | None
) -> dict[str, np.ndarray]:
    """Return the columns of numbers, booleans, texts and times by name, [n] each.

    Times become texts in UTC, as in 2026-03-01 12:00:00. A missing text is "", and a missing number
    is NaN. Columns of other types are left out, and so are columns that share a name.

    Args:
      parquet: pyarrow's `ParquetFile`.
      leave_out: names.
      facts: of our file, whose columns have no other types; None for a file of another program.

    Raises: ValueError or OSError if a column is damaged.
    """
    names = parquet.schema_arrow.names
    found = {}
    for name in names:
        if name in leave_out or names.count(name) > 1:
            continue
        kind = _plain_type(parquet.schema_arrow.field(name).type)
        if kind is None:
            continue
        found[name] = _to_array(_cast(read_column(parquet, name), kind))
    if facts is not None:
        digests = {name: Digest() for name in found}
        for name, digest in digests.items():
            digest.add(found[name])
        if facts.columns != {name: digest.text() for name, digest in digests.items()}:
            raise ValueError("its columns do not match their checksums")
    return found


def read_column(parquet: Any, name: str) -> Any:
    """Return a column as pyarrow has it.

    Raises: ValueError if it is damaged, or takes more than `MAX_BYTES`: a file of few bytes may
      hold one text a billion times.
    """
    import pyarrow as pa  # type: ignore

    kind = parquet.schema_arrow.field(name).type
    size, chunks = 0, []
    for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=[name]):
        chunks.append(batch.column(0))
        size += chunks[-1].nbytes
        if size > MAX_BYTES:
            raise ValueError(f"its column {name} takes more than {MAX_BYTES:,} bytes")
    column = pa.chunked_array(chunks, kind)
    if len(column) != parquet.metadata.num_rows:
        raise ValueError(f"its column {name} has {len(column)} values")
    return column


def _plain_type(kind: Any) -> Any:
    """Return the type to which a column is cast; None for one that is left out."""
    import pyarrow as pa  # type: ignore
    from pyarrow import types  # type: ignore

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return kind
    if types.is_decimal(kind):
        return pa.float64()
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return pa.large_string()
    return pa.large_string() if types.is_temporal(kind) else None


def _cast(column: Any, kind: Any) -> Any:
    """Cast a column of Arrow; a time of a zone becomes one of UTC."""
    import pyarrow as pa  # type: ignore
    from pyarrow import types  # type: ignore

    if types.is_timestamp(column.type):
        column = column.cast(pa.timestamp(column.type.unit))
    return column.cast(kind)


def _to_array(column: Any) -> np.ndarray:
    """Return a column of Arrow as an array of numbers, booleans or strings."""
    from pyarrow import types  # type: ignore

    if types.is_large_string(column.type):
        return np.array([text or "" for text in column.to_pylist()], np.str_)
    if column.null_count and not types.is_floating(column.type):
        column = column.cast("int8") if types.is_boolean(column.type) else column
        return np.array([np.nan if x is None else x for x in column.to_pylist()], np.float64)
    return column.to_numpy()
