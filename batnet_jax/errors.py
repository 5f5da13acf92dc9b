"""The one exception for a mistake that the user can mend."""


class UserError(ValueError):
    """A mistake in what the user gave: a config field, a path, a data set.

    The message is one line that says what was given, what is allowed and what to do.
    `main` prints it and exits with status 2; anything else is a failure of ours and keeps its
    traceback.
    """
