"""Reads Parquet files of features that `embed` or another program wrote.

A file of `embed` holds its features end to end, so they are read in place. The features of other
files are unpacked once: into memory if they are few, otherwise into a temporary file that has no
name and vanishes with the process. Reading row groups at each search would unpack them each time,
at 0.6 GB/s on 2 cores, and other programs write row groups of gigabytes.
"""

from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from batnet_jax.data.files.columns import PATHS, find_name
from batnet_jax.errors import UserError, one_line, printable
from batnet_jax.evaluation.parquet.columns import read_column, read_columns
from batnet_jax.evaluation.parquet.facts import Facts, digest_of, given_fingerprint, read_facts
from batnet_jax.evaluation.parquet.rows import find_features, read_batches, unpack
from batnet_jax.evaluation.parquet.seal import is_sealed
from batnet_jax.evaluation.parquet.texts import TextColumn
from batnet_jax.evaluation.parquet.write import FEATURES, PATH
from batnet_jax.retrieval.row_file import RowFile
from batnet_jax.retrieval.row_parts import Part, PartFile, RowParts, part_file
from batnet_jax.runtime.read_files import open_regular, reason

MAX_ROWS = 2**31 - 1
"""Limit of the rows: a search counts images in 32 bits."""


class Contents(NamedTuple):
    """The contents of a Parquet file of features."""

    features: np.ndarray | RowFile
    """[n, d] of floats."""
    paths: TextColumn | None
    """The n image paths; None if there are none."""
    fingerprint: str | None
    """Of the model; None if the file has none."""
    columns: dict[str, np.ndarray]
    """The other columns of numbers and texts, [n] each, by name."""


class Opened(NamedTuple):
    """An open Parquet file."""

    path: Path
    file: BinaryIO
    parquet: Any
    """pyarrow's `ParquetFile`."""
    facts: Facts | None
    """The metadata that `embed` wrote; None for files of other programs."""


def open_parquet(path: Path, in_memory: int) -> Contents:
    """Open a Parquet file of features.

    Args:
      path: the file.
      in_memory: the limit in bytes up to which features are read into memory.

    Raises: UserError, OSError or ValueError if the file cannot be read, is damaged, or holds no
      features.
    """
    with open(open_regular(path), "rb") as file:
        opened = open_file(path, file)
        features, paths, columns = read_file(opened, in_memory)
        return Contents(features, paths, fingerprint_of(opened), columns)


def parquet_fingerprint(path: Path) -> str | None:
    """Return the fingerprint in a Parquet file; None if it has none.

    Raises: UserError if the file cannot be read.
    """
    try:
        with open(open_regular(path), "rb") as file:
            return fingerprint_of(open_file(path, file))
    except UserError:
        raise
    except Exception as error:  # pyarrow raises many types
        why = reason(error) if isinstance(error, OSError) else one_line(error)
        raise UserError(f"'{path}' cannot be read ({why})") from error


def fingerprint_of(opened: Opened) -> str | None:
    """Return the fingerprint in an open file; None if it has none."""
    if opened.facts is not None:
        return opened.facts.fingerprint
    return given_fingerprint(opened.parquet.metadata.metadata)


def open_file(path: Path, file: BinaryIO) -> Opened:
    """Read the metadata of an open file.

    Raises: OSError or ValueError if they are damaged; UserError if the file has too many rows.
    """
    from pyarrow import parquet  # type: ignore # takes 0.3 s to import

    sealed = is_sealed(file)
    file.seek(0)
    found = parquet.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
    if found.metadata.num_rows > MAX_ROWS:
        raise UserError(f"'{path}' has {found.metadata.num_rows:,} rows: at most {MAX_ROWS:,}")
    return Opened(path, file, found, read_facts(found.metadata.metadata) if sealed else None)


def read_file(
    opened: Opened, in_memory: int
) -> tuple[np.ndarray | RowFile, TextColumn | None, dict[str, np.ndarray]]:
    """Return the features, the paths and the other columns of a file.

    Raises: UserError, OSError or ValueError if they are damaged, or are something else.
    """
    path, schema = opened.path, opened.parquet.schema_arrow
    if not opened.parquet.metadata.num_rows:
        raise UserError(f"'{path}' has no rows: embed some images")
    name = FEATURES if opened.facts else find_features(path, schema)
    parts = place_parts(opened, part_file(path, opened.file.fileno()), 0)
    if parts is None:
        batches = read_batches(path, opened.parquet, name, opened.facts)
        features = unpack(path, batches, opened.parquet.metadata.num_rows, in_memory)
    else:
        features = _in_memory(parts, in_memory)
    wanted = PATH if opened.facts else find_name(PATHS, _text_names(schema))
    paths = None if wanted is None else read_texts(opened, wanted)
    columns = read_columns(opened.parquet, leave_out=(name, wanted), facts=opened.facts)
    return features, paths, columns


def place_parts(opened: Opened, file: PartFile, number: int) -> RowParts | None:
    """Return the features of a file in place; None if they have to be unpacked.

    Args:
      opened: the file.
      file: the same file.
      number: of the file among the files of a gallery.
    """
    parts = find_parts(opened, number)
    if parts is None or opened.facts is None:
        return None
    rows = RowParts([file] * (number + 1), parts, opened.facts.dim)
    return rows if rows.check_part(0) else None  # None: another layout of pyarrow


def find_parts(opened: Opened, number: int) -> list[Part] | None:
    """Return where the features of each row group lie; None if they are packed in any way."""
    facts, metadata = opened.facts, opened.parquet.metadata
    if facts is None or len(facts.sums) != metadata.num_row_groups:
        return None
    parts = []
    for group in range(metadata.num_row_groups):
        column, count = metadata.row_group(group).column(0), metadata.row_group(group).num_rows
        size = 4 * count * facts.dim
        is_plain = (
            column.path_in_schema.split(".")[0] == FEATURES
            and column.physical_type == "FLOAT"
            and column.compression == "UNCOMPRESSED"
            and not column.has_dictionary_page
            and column.num_values * 4 == size < column.total_compressed_size
        )
        if not is_plain:
            return None
        end = column.data_page_offset + column.total_compressed_size
        parts.append(Part(number, end - size, count, facts.sums[group]))
    return parts


def read_texts(opened: Opened, name: str) -> TextColumn:
    """Return a column of texts without nulls.

    Raises: UserError if a text is missing; OSError or ValueError if the column is damaged.
    """
    import pyarrow as pa  # type: ignore

    column = read_column(opened.parquet, name)
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise UserError(
            f"'{opened.path}' has no text in row {row} of the column {printable(name)}: give each"
            " image its path, or leave the column out"
        )
    found = TextColumn(column.cast(pa.large_string()).chunks)
    if opened.facts is not None and digest_of(found) != opened.facts.names:
        raise ValueError("its paths do not match their checksum")
    return found


def _text_names(schema: Any) -> list[str]:
    """Return the names of the columns that hold texts."""
    from pyarrow import types  # type: ignore

    tests = types.is_string, types.is_large_string, types.is_string_view
    names = []
    for field in schema:
        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        if any(is_text(kind) for is_text in tests):
            names.append(field.name)
    return names


def _in_memory(rows: RowParts, most: int) -> np.ndarray | RowParts:
    """Return rows in memory if they are few."""
    return rows[:] if rows.nbytes <= most else rows
