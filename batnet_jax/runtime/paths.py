"""Looks up paths that a user names.

`Path.is_dir` and similar methods raise an error for a folder that may not be entered and for a name
that is too long. `os.path.isdir` returns False, as if the path did not exist. These functions raise
a UserError that says in one line what is wrong.
"""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from batnet_jax.errors import UserError

T = TypeVar("T")
SHOWN = 200
"""Characters of a path in a message."""
REMEDIES = {
    errno.EACCES: "let this user enter its folders, or name another path",
    errno.EPERM: "let this user enter its folders, or name another path",
    errno.ENAMETOOLONG: "name a shorter path",
}


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder, or a link to one.

    Raises: UserError if the path cannot be looked up.
    """
    return _ask(path, path.is_dir)


def is_file(path: Path) -> bool:
    """Return whether a path is a regular file, or a link to one.

    Raises: UserError if the path cannot be looked up.
    """
    return _ask(path, path.is_file)


def exists(path: Path) -> bool:
    """Return whether a path exists, as a file, a folder or anything else.

    Raises: UserError if the path cannot be looked up.
    """
    return _ask(path, path.exists)


def existing_parent(path: Path) -> Path:
    """Return a path if it exists, otherwise the nearest folder above it that does.

    Raises: UserError if one of them cannot be looked up.
    """
    path = path.absolute()
    return next(place for place in (path, *path.parents) if exists(place))


def list_folder(path: Path) -> list[Path]:
    """List the entries of a folder.

    Raises: UserError if the folder cannot be read.
    """
    return _ask(path, lambda: list(path.iterdir()))


def _ask(path: Path, question: Callable[[], T]) -> T:
    try:
        return question()
    except OSError as error:
        if error.errno is None:  # an error of a bucket, whose message says what is wrong
            raise
        name = str(path)
        name = name if len(name) <= SHOWN else f"{name[:SHOWN]}..."
        remedy = REMEDIES.get(error.errno, "name another path")
        raise UserError(f"'{name}' cannot be looked up ({error.strerror}): {remedy}") from error
