"""Writes Parquet files of features, a row group at a time.

The features are stored as they are, without compression, and the features of a row group are one
page. So they lie end to end in the file, and a search reads them in place. Features hardly
compress: zstd saves 8 %.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from batnet_jax.errors import UserError
from batnet_jax.evaluation.parquet.facts import FINGERPRINT_KEY, KEY, Digest, Facts, to_text
from batnet_jax.evaluation.parquet.seal import seal
from batnet_jax.runtime.atomic_write import atomic_path

Columns = Mapping[str, np.ndarray]

SUFFIX = ".parquet"
FEATURES, PATH = "features", "path"
_GROUP_BYTES = 2**24
"""Features of a row group; a search takes as much at a time."""
_GROUP_ROWS = 2**14
"""Limit of the rows of a group: pyarrow begins another page after 20,000."""
_PAGE_BYTES = 2**30
"""More than a row group, so that its features are one page."""


def write_parquet(
    path: Path,
    batches: Iterable[np.ndarray],
    *,
    shape: tuple[int, int],
    paths: Sequence[str],
    fingerprint: str | None = None,
    columns: Columns | Callable[[], Columns] = MappingProxyType({}),
    shard: Mapping[str, Any] | None = None,
) -> None:
    """Write the columns `features`, a list of d float32, `path`, and others.

    Args:
      path: the file; appears when complete.
      batches: [b, d] float32, in order; n rows in total. Consumed one at a time.
      shape: n and d.
      paths: n names.
      fingerprint: of the model; None to leave it out.
      columns: [n] numbers or strings, by name. Or a function that returns them: it is called before
        the first batch for the types, and before a row group is written for the group's values.
      shard: the facts about the gallery that the file is a shard of; None for a whole gallery.

    Raises: UserError if a name cannot be kept; OSError if the file cannot be written; then an old
      file at the path is unchanged.
    """
    known = columns if callable(columns) else lambda: columns
    check_names(paths, known())
    with atomic_path(path) as temporary:
        facts = Facts(fingerprint, *shape, "", {}, [], dict(shard or {}))
        _write(temporary, _groups(batches, *shape), paths, known, facts)
        seal(temporary)


def _write(
    path: Path,
    groups: Iterable[np.ndarray],
    paths: Sequence[str],
    columns: Callable[[], Columns],
    facts: Facts,
) -> None:
    """Write the row groups, and the facts with their checksums."""
    import pyarrow as pa  # type: ignore # takes 0.3 s to import
    from pyarrow import parquet  # type: ignore

    schema = _schema(pa, facts.dim, columns(), facts.fingerprint)
    texts = [name for name in schema.names if name != FEATURES]
    digests, sums, done = {name: Digest() for name in texts}, [], 0
    with parquet.ParquetWriter(
        path,
        schema,
        compression={"features.list.element": "none", **dict.fromkeys(texts, "zstd")},
        use_dictionary=texts,
        write_statistics=texts,
        data_page_size=_PAGE_BYTES,
        write_page_checksum=True,
    ) as writer:
        for rows in groups:
            part, known = slice(done, done + len(rows)), columns()
            values = pa.array(rows.reshape(-1))
            arrays = [pa.FixedSizeListArray.from_arrays(values, type=schema.field(0).type)]
            for name in texts:
                cells = list(paths[part]) if name == PATH else _as_text(known[name][part])
                arrays.append(pa.array(cells, schema.field(name).type))
                digests[name].add(cells)
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), len(rows))
            sums.append(zlib.crc32(rows.view(np.uint8).reshape(-1).data))
            done += len(rows)
        found = {name: digest.text() for name, digest in digests.items()}
        whole = facts._replace(names=found.pop(PATH), columns=found, sums=sums)
        writer.add_key_value_metadata({KEY: to_text(whole)})


def check_names(paths: Iterable[str], columns: Mapping[str, Any]) -> None:
    """Check the names of images and columns before the work begins.

    Raises: UserError for a path that is not UTF-8, as Parquet's texts must be, and for a column
      that would take the place of another.
    """
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"'{path}' is not UTF-8, as the texts of a .parquet must be: rename the file, or "
                "write an .npz"
            ) from None
    for name in columns:
        if name in (FEATURES, PATH):
            raise UserError(f"a column cannot be named {name}: a .parquet has one of its own")


def _schema(pa: Any, dim: int, columns: Columns, fingerprint: str | None) -> Any:
    """Return the columns of a file and their types."""
    value = pa.field("element", pa.float32(), nullable=False)
    fields = [
        pa.field(FEATURES, pa.list_(value, dim), nullable=False),
        pa.field(PATH, pa.string(), nullable=False),
    ]
    for name, column in columns.items():
        number = column.dtype.newbyteorder("=")
        kind = pa.string() if column.dtype.kind in "US" else pa.from_numpy_dtype(number)
        fields.append(pa.field(name, kind, nullable=False))
    kept = {FINGERPRINT_KEY: fingerprint} if fingerprint else None
    return pa.schema(fields, metadata=kept)


def _as_text(column: np.ndarray) -> np.ndarray:
    """Return a column whose bytes are strings, in this machine's order of bytes."""
    if column.dtype.kind == "S":
        return np.char.decode(column, "utf-8")
    return column.astype(column.dtype.newbyteorder("="), copy=False)


def _groups(batches: Iterable[np.ndarray], count: int, dim: int) -> Iterator[np.ndarray]:
    """Yield the rows of each row group, [m, d] float32, in memory that is used again.

    Raises: ValueError if the number of rows is not `count`.
    """
    size = max(1, min(_GROUP_ROWS, _GROUP_BYTES // (4 * max(dim, 1))))
    group, filled, total = np.empty((min(size, count), dim), "<f4"), 0, 0
    for features in batches:
        total += len(features)
        if total > count:
            break
        start = 0
        while start < len(features):
            part = features[start : start + len(group) - filled]
            group[filled : filled + len(part)] = part
            start, filled = start + len(part), filled + len(part)
            if filled == len(group):
                yield group
                filled = 0
    if total != count:
        raise ValueError(f"{total} features were given for {count} images")
    if filled:
        yield group[:filled]
