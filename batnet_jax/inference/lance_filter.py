"""Filters of columns as conditions of LanceDB, in its SQL."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from batnet_jax.errors import UserError, printable
from batnet_jax.inference.where import Parser, Token, check_like, check_text, to_number

_LEAST, _MOST = -(2**63), 2**63 - 1
_COLUMN = re.compile(r"\w[\w -]*", re.ASCII)
"""Names that LanceDB's SQL can quote."""


MAX_COMPARED = 100
"""Limit of the comparisons in a filter."""
MAX_DEPTH = 20
"""Limit of nested parentheses."""


class SqlColumn(NamedTuple):
    """A column of a table: its quoted name, and the type of its values."""

    name: str
    dtype: np.dtype


class _Sql(NamedTuple):
    """A condition, and what joins its parts: AND, OR or nothing."""

    text: str
    joined: str = ""

    def __and__(self, other: "_Sql") -> "_Sql":
        return self._join("AND", other)

    def __or__(self, other: "_Sql") -> "_Sql":
        return other if self == _NONE else self._join("OR", other)

    def __invert__(self) -> "_Sql":
        return _Sql(f"NOT ({self.text})")

    def _join(self, word: str, other: "_Sql") -> "_Sql":
        """Join two conditions; LanceDB reads few parentheses within each other."""
        parts = [one.text if one.joined in ("", word) else f"({one.text})" for one in (self, other)]
        return _Sql(f" {word} ".join(parts), word)


_NONE, _ALL = _Sql("false"), _Sql("true")


def quote_text(text: str) -> str:
    """Return a text as SQL: in single quotes, with each quote of the text doubled."""
    return "'" + text.replace("'", "''") + "'"


def quote_column(name: str) -> str:
    """Return the name of a column as SQL.

    Raises: UserError for a name that LanceDB cannot quote.
    """
    if not _COLUMN.fullmatch(name):
        raise UserError(
            f"LanceDB cannot hold the column {printable(repr(name))}: name it with letters, digits,"
            " spaces, - and _"
        )
    return f"`{name}`"


def to_sql(where: str, columns: Mapping[str, np.dtype]) -> str:
    """Return a filter, see `where`, as a condition of LanceDB that passes the same images.

    Args:
      where: the filter.
      columns: the types of the columns by name; `path` among them.

    Raises: UserError if the filter cannot be read, or names a column that is missing.
    """
    known = {name: SqlColumn(quote_column(name), dtype) for name, dtype in columns.items()}
    found = _SqlParser(where, known, None, 0).parse().text
    if _depth(found) > MAX_DEPTH:
        raise UserError(f"the filter nests more than {MAX_DEPTH} parentheses, too deep for LanceDB")
    return found


def _depth(sql: str) -> int:
    """Return the depth of nested parentheses, without those in texts."""
    most = depth = 0
    for sign in re.sub("'[^']*'", "", sql):
        depth += (sign == "(") - (sign == ")")
        most = max(most, depth)
    return most


class _SqlParser(Parser):
    """Reads a filter, and writes each part as SQL. No column of ours holds NULL."""

    compared = 0

    def count(self) -> None:
        """Count a comparison: LanceDB's own parser goes down a level for each."""
        self.compared += 1
        if self.compared > MAX_COMPARED:
            raise UserError(
                f"the filter compares more than {MAX_COMPARED} values, too many for LanceDB"
            )

    def none(self) -> _Sql:
        return _NONE

    def equals(self, name: str, column: Any, value: Token) -> _Sql:
        self.count()
        if column.dtype.kind == "U":
            return _Sql(f"{column.name} = {quote_text(value.text)}")
        number = to_number(name, column.dtype, value)
        if column.dtype.kind in "iu" and (not _LEAST <= number <= _MOST or number != int(number)):
            return _NONE
        return _Sql(f"{column.name} = {_literal(column.dtype, number)}")

    def is_ordered(self, name: str, column: Any, sign: str, value: Token) -> _Sql:
        self.count()
        kind = column.dtype.kind
        if kind == "U":
            check_text(name, sign, value)
            return _Sql(f"{column.name} {sign} {quote_text(value.text)}")
        number = to_number(name, column.dtype, value)
        if kind == "b":
            passing = [v for v in (False, True) if eval_order(v, sign, bool(number))]
            if len(passing) != 1:
                return _ALL if passing else _NONE
            return _Sql(f"{column.name} = {str(passing[0]).lower()}")
        if kind == "f":
            found = f"{column.name} {sign} {_literal(column.dtype, number)}"
            # SQL has NaN greater than all numbers.
            is_number = _Sql(f"NOT isnan({column.name})")
            return _Sql(found) & is_number if ">" in sign else _Sql(found)
        if not _LEAST <= number <= _MOST:
            return _ALL if (number > 0) == ("<" in sign) else _NONE
        if number != int(number):  # the column has whole numbers
            number, sign = (math.floor(number), "<=") if "<" in sign else (math.ceil(number), ">=")
        return _Sql(f"{column.name} {sign} {_literal(column.dtype, number)}")

    def is_like(self, name: str, column: Any, pattern: str) -> _Sql:
        self.count()
        check_like(name, column.dtype)
        if "[" in pattern:
            raise UserError("`like` in a gallery of LanceDB knows * and ?, and no [...]: use in")
        plain = re.sub(r"([\\%_])", r"\\\1", pattern)
        return _Sql(f"{column.name} LIKE {quote_text(plain.replace('*', '%').replace('?', '_'))}")


def eval_order(left: bool, sign: str, right: bool) -> bool:
    """Compare two truth values by `sign`, where False is less than True."""
    return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[sign]


def _literal(dtype: np.dtype, number: float | int | bool) -> str:
    """Return a number as SQL."""
    if dtype.kind == "b":
        return str(bool(number)).lower()
    if dtype.kind in "iu":
        # LanceDB reads the digits before the sign, and 2**63 is above the greatest number.
        return str(int(number)) if number != _LEAST else f"({_LEAST + 1} - 1)"
    if math.isinf(number):
        return "1e400" if number > 0 else "-1e400"
    return repr(float(number))
