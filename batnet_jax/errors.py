"""The exceptions that `main` reports in one line, without a traceback."""

import re

MAX_CHARACTERS = 1500
"""Length that a message is cut to."""
MAX_REASON = 300
"""Length that the message of another library's exception is cut to within ours."""
# File names come from anywhere: these characters would break the line or control the terminal.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return text with each character that breaks a line or controls the terminal written out."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


class _OneLine(Exception):  # noqa: N818 (a base class)
    """An exception whose message is printed as one line, whatever file names it contains."""

    def __str__(self) -> str:
        line = printable(super().__str__())
        half = MAX_CHARACTERS // 2
        return line if len(line) <= MAX_CHARACTERS else f"{line[:half]} [...] {line[-half:]}"


class UserError(_OneLine, ValueError):
    """A mistake in a value that the user gave: a config field, a path, a data set.

    The message is one line with the value given, the values allowed and the remedy. `main` prints
    the message and exits with status 2.
    """


class ArgumentError(UserError):
    """A mistake in one argument of a function.

    A library function names its argument. Its caller adds the name of the user's setting.

    Attributes:
      argument: the argument's name.
    """

    def __init__(self, argument: str, message: str):
        super().__init__(message)
        self.argument = argument


class RunFailure(_OneLine, RuntimeError):  # noqa: N818 (not an error in a value given)
    """The end of a run by a full disk, too little memory, or a loss that is not finite.

    The message is one line with the cause, the results that are kept and the remedy. `main` prints
    the message and exits with status 1.
    """


class NotFiniteError(RunFailure, FloatingPointError):
    """A loss or a parameter that is NaN or infinite."""


def one_line(error: BaseException | str, limit: int = MAX_REASON) -> str:
    """Return an exception's message on one line, or the name of its type if it has no message."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, where others would only give details."""
    lines = str(error).strip().splitlines()
    return one_line(lines[0] if lines else error)
