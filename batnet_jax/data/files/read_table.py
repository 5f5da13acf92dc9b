"""Reads tables of a user, .csv or .parquet, as columns of texts."""

import csv
import io
import math
from pathlib import Path
from typing import Any, NamedTuple

from batnet_jax.data.files.columns import MISSING, plain
from batnet_jax.data.files.safe_open import read_whole
from batnet_jax.errors import UserError, one_line
from batnet_jax.runtime.paths import exists
from batnet_jax.runtime.read_files import reason

SUFFIXES = (".csv", ".tsv", ".parquet")
MAX_ROWS = 20_000_000
"""Limit of a .parquet, whose file may be far smaller than its rows."""
MAX_UNPACKED = 2 * 10**9
"""Limit of the columns of a .parquet, in bytes."""
_DELIMITERS = ",;\t|"
_ENCODINGS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class Table(NamedTuple):
    """The columns of a table."""

    columns: dict[str, list[str]]
    """Texts without spaces at their ends, by the names of the columns; "" = missing."""
    first_row: int
    """The number of the first row of values, as the user counts them: 2 below a row of names."""


def is_table(path: Path) -> bool:
    """Return whether a path has the suffix of a table."""
    return path.suffix.lower() in SUFFIXES


def read_table(path: Path) -> Table:
    """Read a table.

    Raises: UserError if it cannot be read, has no rows, or two columns have the same name.
    """
    if not exists(path):
        raise UserError(f"'{path}' does not exist: name a table of images, or their folder")
    try:
        content = read_whole(path)
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({reason(error)}): restore it") from error
    is_parquet = path.suffix.lower() == ".parquet"
    table = _parse_parquet(content, path) if is_parquet else _parse_csv(content, path)
    if not table.columns or not next(iter(table.columns.values())):
        raise UserError(f"'{path}' has no rows: write one for each image, below the columns' names")
    return table


def _parse_csv(content: bytes, path: Path) -> Table:
    """Parse a table in UTF-8 or UTF-16 whose first row names the columns.

    Raises: UserError.
    """
    encoding = next((e for mark, e in _ENCODINGS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not in UTF-8: save it so") from error
    mark = max(_DELIMITERS, key=text.partition("\n")[0].count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=mark))
    except csv.Error as error:
        raise UserError(f"'{path}' is not a table ({one_line(error)}): correct it") from error
    numbered = [(number, row) for number, row in enumerate(rows, 1) if any(map(str.strip, row))]
    if not numbered:
        return Table({}, 2)
    (first, names), values = numbered[0], numbered[1:]
    for number, row in values:
        if len(row) != len(names):
            raise UserError(
                f"'{path}' has {len(row)} cells in row {number}, not {len(names)}: write one for "
                "each column, and quote a cell that holds the delimiter"
            )
    columns = zip(*(row for _, row in values), strict=True)
    cells = [list(map(_clean, column)) for column in columns] or [[] for _ in names]
    return Table(_by_name(path, [name.strip() for name in names], cells), first + 1)


def _parse_parquet(content: bytes, path: Path) -> Table:
    """Parse a table in the format of Parquet.

    Raises: UserError.
    """
    from pyarrow import parquet, types  # type: ignore # takes 0.3 s to import

    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        facts = file.metadata
        size = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
        if facts.num_rows > MAX_ROWS or size > MAX_UNPACKED:
            raise OSError(f"{facts.num_rows:,} rows of {size:,} bytes are too many")
        others = types.is_nested, types.is_binary, types.is_large_binary  # pictures, key points
        plain_ones = [f.name for f in file.schema_arrow if not any(is_(f.type) for is_ in others)]
        found = file.read(columns=plain_ones)
        names, cells = found.column_names, [column.to_pylist() for column in found.columns]
    except MemoryError:
        raise
    except Exception as error:  # pyarrow's own types
        raise UserError(f"'{path}' cannot be read as Parquet ({one_line(error)})") from error
    texts = [[_clean(_as_text(value)) for value in column] for column in cells]
    return Table(_by_name(path, names, texts), 1)


def _by_name(path: Path, names: list[str], cells: list[list[str]]) -> dict[str, list[str]]:
    """Return columns by their names, without those that have no name.

    Raises: UserError if two columns have the same name, but for marks and capitals.
    """
    seen: dict[str, str] = {}
    for name in filter(None, names):
        if plain(name) in seen:
            raise UserError(
                f"'{path}' has the columns {seen[plain(name)]!r} and {name!r}: keep one"
            )
        seen[plain(name)] = name
    return {name: column for name, column in zip(names, cells, strict=True) if name}


def _clean(text: str) -> str:
    """Return a text without spaces at its ends; "" if it stands for a missing value."""
    text = text.strip()
    return "" if text.lower() in MISSING else text


def _as_text(value: Any) -> str:
    """Return a value of a typed column as text; whole numbers have no point."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
