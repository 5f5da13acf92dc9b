"""Filters of gallery images by their columns, as in `camera = 3 and time > 2024-01-01`.

A filter compares columns with values: `=`, `!=`, `<`, `<=`, `>`, `>=`, `in (...)`, and `like` with
a pattern of `*`, `?` and `[...]`. `and`, `or`, `not` and parentheses join comparisons. A name or a
value with spaces or signs stands in quotes, single or double; a doubled quote is a quote. `path` is
the path of the image, unless a column has this name. A filter is never run as code.

A column of numbers is compared by size. A date that is compared with numbers stands for the seconds
since 1970, in UTC if it names no zone. A column of texts is compared by its characters, and so are
dates in it. A missing number (NaN) equals no value and is neither less nor greater; `a != 3` is
`not a = 3`.
"""

import datetime
import fnmatch
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from batnet_jax.errors import UserError, printable

MAX_CHARACTERS = 10_000
MAX_DEPTH = 50
"""Limit of nested parentheses and `not`s."""
EXAMPLE = "camera=3 and time>2024-01-01"
PATH = "path"

_TOKEN = re.compile(
    r"""(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")"""
    r"""|(?P<sign><=|>=|!=|==|<>|[=<>(),])|(?P<word>[^\s'"<>=!(),]+)"""
)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9:.]+(?:Z|[+-][0-9:]+)?)?")
_SIGNS: dict[str, Callable[..., np.ndarray]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EQUAL = {"=": True, "==": True, "!=": False, "<>": False}
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Token(NamedTuple):
    """A part of a filter."""

    text: str
    """Without quotes."""
    place: int
    """The position of its first character in the filter."""
    is_quoted: bool = False

    def means(self, *words: str) -> bool:
        """Return whether the token is one of some words or signs."""
        return not self.is_quoted and self.text.lower() in words


def find_rows(
    where: str, columns: Mapping[str, np.ndarray], paths: Sequence[str] | None, count: int
) -> np.ndarray:
    """Return the images that pass a filter.

    Args:
      where: the filter.
      columns: by name, [n] numbers, booleans or strings.
      paths: n paths; None if the images have none.
      count: n.

    Returns: [m] int64, sorted.

    Raises: UserError if the filter cannot be read, or names a column that is missing.
    """
    return np.flatnonzero(Parser(where, columns, paths, count).parse())


class Parser:
    """Reads a filter from left to right, and computes the mask of each part.

    A subclass may compute something else of each part: it overrides `none` and the methods that
    compare, and joins its results by `&`, `|` and `~`.
    """

    def __init__(
        self,
        where: str,
        columns: Mapping[str, Any],
        paths: Sequence[str] | None,
        count: int,
    ):
        self._where, self._columns, self._paths, self._count = where, columns, paths, count
        self._tokens = self._split()
        self._next = 0
        self._depth = 0

    def parse(self) -> Any:
        """Return the mask [n] of the whole filter."""
        mask = self._either()
        if self._peek():
            raise self._wrong("`and` or `or` is missing before")
        return mask

    def _either(self) -> Any:
        mask = self._both()
        while self._skip("or"):
            mask = mask | self._both()
        return mask

    def _both(self) -> Any:
        mask = self._one()
        while self._skip("and"):
            mask = mask & self._one()
        return mask

    def _one(self) -> Any:
        """Return the mask of a comparison, of a negation or of a part in parentheses."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UserError(f"a filter may nest {MAX_DEPTH} parentheses and `not`s: write it flat")
        if self._skip("not"):
            mask = ~self._one()
        elif self._skip("("):
            mask = self._either()
            self._need(")")
        else:
            mask = self._compare()
        self._depth -= 1
        return mask

    def _compare(self) -> Any:
        """Return the mask of a comparison of a column."""
        token = self._take("a column")
        if token.means("and", "or", "in", "like", ")", ",", *_SIGNS, *_EQUAL):
            raise self._wrong("the name of a column is missing before", token)
        name, column = token.text, self._column(token.text)
        negated = self._skip("not")
        sign = self._take("=, <, in or like")
        if sign.means("in"):
            mask = self.none()
            self._need("(")
            while True:
                mask = mask | self.equals(name, column, self._value())
                if self._skip(")"):
                    break
                self._need(",")
        elif sign.means("like"):
            mask = self.is_like(name, column, self._value().text)
        elif sign.means(*_EQUAL) and not negated:
            mask = self.equals(name, column, self._value())
            negated = not _EQUAL[sign.text]
        elif sign.means(*_SIGNS) and not negated:
            mask = self.is_ordered(name, column, sign.text, self._value())
        else:
            raise self._wrong("=, !=, <, <=, >, >=, in or like is missing before", sign)
        return ~mask if negated else mask

    def none(self) -> Any:
        """Return the mask of no image."""
        return np.zeros(self._count, bool)

    def equals(self, name: str, column: Any, value: Token) -> Any:
        """Return the mask of the items of a column that equal a value."""
        if column.dtype.kind == "U":
            return column == value.text
        return _plain(column) == to_number(name, column.dtype, value)

    def is_ordered(self, name: str, column: Any, sign: str, value: Token) -> Any:
        """Return the mask of the items of a column that are less or greater than a value."""
        if column.dtype.kind == "U":
            check_text(name, sign, value)
            return _SIGNS[sign](column, value.text)
        return _SIGNS[sign](_plain(column), to_number(name, column.dtype, value))

    def is_like(self, name: str, column: Any, pattern: str) -> Any:
        """Return the mask of the texts of a column that match a pattern of `*`, `?` and `[...]`."""
        check_like(name, column.dtype)
        try:
            matches = re.compile(fnmatch.translate(pattern)).match
        except (re.error, OverflowError, RecursionError):
            raise UserError(
                f"{printable(repr(pattern))} is not a pattern of *, ? and [...]"
            ) from None
        return np.array([matches(text) is not None for text in column.tolist()], bool)

    def _value(self) -> Token:
        token = self._take("a value")
        if token.means("and", "or", "not", "in", "like", "(", ")", ",", *_SIGNS, *_EQUAL):
            raise self._wrong("a value is missing before", token)
        return token

    def _column(self, name: str) -> Any:
        if name in self._columns:
            return self._columns[name]
        if name == PATH and self._paths is not None:
            return np.array(self._paths, np.str_) if self._count else np.empty(0, "<U1")
        names = [*self._columns, *([PATH] if self._paths is not None else [])]
        known = f"it has {', '.join(names)}" if names else "it has none"
        raise UserError(f"the gallery has no column {printable(repr(name))}: {known}")

    def _split(self) -> list[Token]:
        """Return the tokens of the filter."""
        if len(self._where) > MAX_CHARACTERS:
            raise UserError(
                f"a filter of {len(self._where):,} characters is too long: at most"
                f" {MAX_CHARACTERS:,} are read"
            )
        tokens, place = [], 0
        while place < len(self._where):
            if self._where[place].isspace():
                place += 1
                continue
            found = _TOKEN.match(self._where, place)
            if found is None:
                rest = Token(self._where[place:], place)
                raise self._wrong("there is no sense in", rest)
            text = found[0]
            if found["text"]:
                text = text[1:-1].replace(text[0] * 2, text[0])
            tokens.append(Token(text, place, bool(found["text"])))
            place = found.end()
        return tokens

    def _peek(self) -> Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self, wanted: str) -> Token:
        token = self._peek()
        if token is None:
            raise self._wrong(f"{wanted} is missing at the end of")
        self._next += 1
        return token

    def _skip(self, word: str) -> bool:
        token = self._peek()
        if token is None or not token.means(word):
            return False
        self._next += 1
        return True

    def _need(self, sign: str) -> None:
        if not self._skip(sign):
            at = "before" if self._peek() else "at the end of"
            raise self._wrong(f"{sign} is missing {at}")

    def _wrong(self, what: str, token: Token | None = None) -> UserError:
        """Return the error that shows the rest of the filter from a token, or the next one, on."""
        token = token or self._peek()
        rest = self._where[token.place :] if token else self._where
        shown = rest if len(rest) <= 40 else f"{rest[:40]}..."
        return UserError(
            f"the filter cannot be read: {what} {printable(repr(shown))}; write it as in {EXAMPLE}"
        )


def check_text(name: str, sign: str, value: Token) -> None:
    """Raise UserError if a column of texts would be ordered by a number."""
    if not value.is_quoted and _NUMBER.fullmatch(value.text):
        raise UserError(
            f"the column {name} holds texts, and {value.text} is a number: quote it, as in"
            f" {name} {sign} '{value.text}', to compare by characters"
        )


def check_like(name: str, dtype: np.dtype) -> None:
    """Raise UserError if a column is not of texts."""
    if dtype.kind != "U":
        raise UserError(f"the column {name} holds numbers, and `like` is for texts: use = or in")


def _plain(column: np.ndarray) -> np.ndarray:
    """Return a column of numbers in a type whose comparison with a number is exact."""
    return column.astype(np.float64) if column.dtype.kind == "f" else column


def to_number(name: str, dtype: np.dtype, value: Token) -> float | int | bool:
    """Return a value that a column of numbers or booleans can be compared with.

    Raises: UserError if the value is not a number.
    """
    text = value.text.strip()
    if dtype.kind == "b":
        if text.lower() not in _TRUTH:
            raise UserError(f"the column {name} is true or false, not {printable(repr(text))}")
        return _TRUTH[text.lower()]
    number: float | int | None = None
    if _NUMBER.fullmatch(text):
        number = _exact(text)
    elif _DATE.fullmatch(text):
        number = _seconds(text)
    if number is None:
        raise UserError(
            f"the column {name} holds numbers, and {printable(repr(text))} is neither a number nor"
            " a date such as 2024-01-31"
        )
    if dtype.kind == "f":
        try:
            return float(number)
        except OverflowError:
            return math.copysign(math.inf, number)
    return number


def _exact(text: str) -> float | int:
    """Return a number; whole ones as integers, which compare exactly with integers."""
    number = float(text)
    if text.lstrip("+-").isdigit() and len(text) < 1000:
        return int(text)
    return int(number) if number.is_integer() else number


def _seconds(text: str) -> float | None:
    """Return the seconds from 1970 to a date; None if the date does not exist."""
    try:
        date = datetime.datetime.fromisoformat(text)
        zoned = date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
        return zoned.timestamp()
    except (ValueError, OverflowError):
        return None
