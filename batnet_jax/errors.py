"""The exceptions whose message is all that a user needs."""


class UserError(ValueError):
    """A mistake in what the user gave: a config field, a path, a data set.

    The message is one line that says what was given, what is allowed and what to do.
    `main` prints it and exits with status 2; but for `RunFailure` anything else is a failure of
    ours and keeps its traceback.
    """


class RunFailure(RuntimeError):  # noqa: N818 (not an error in what was given)
    """What ends a run in its course: a full disk, too little memory, a loss that is not finite.

    The message is one line that says what has happened, what is kept and what to do. `main` prints
    it and exits with status 1.
    """


class NotFiniteError(RunFailure, FloatingPointError):
    """The loss or a parameter is NaN or infinite."""
