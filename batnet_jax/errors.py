"""The exceptions whose message is all that a user needs."""

import re

LONGEST = 1500
"""Characters of a message."""
# What would break the line, or make a terminal do something: names of files come from anywhere.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class _Told(Exception):  # noqa: N818 (its subclasses say what it is)
    """Is told in a line, whatever the file names in its message hold."""

    def __str__(self) -> str:
        line = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], super().__str__())
        half = LONGEST // 2
        return line if len(line) <= LONGEST else f"{line[:half]} [...] {line[-half:]}"


class UserError(_Told, ValueError):
    """A mistake in what the user gave: a config field, a path, a data set.

    The message is one line that says what was given, what is allowed and what to do.
    `main` prints it and exits with status 2; but for `RunFailure` anything else is a failure of
    ours and keeps its traceback.
    """


class ArgumentError(UserError):
    """A mistake that another value of one argument would mend.

    A library function names its argument; its caller adds the setting that the user knows.

    Attributes:
      argument: the argument's name.
    """

    def __init__(self, argument: str, message: str):
        super().__init__(message)
        self.argument = argument


class RunFailure(_Told, RuntimeError):  # noqa: N818 (not an error in what was given)
    """What ends a run in its course: a full disk, too little memory, a loss that is not finite.

    The message is one line that says what has happened, what is kept and what to do. `main` prints
    it and exits with status 1.
    """


class NotFiniteError(RunFailure, FloatingPointError):
    """The loss or a parameter is NaN or infinite."""
