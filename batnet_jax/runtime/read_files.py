"""Reads files that may be damaged, and refuses paths that are not regular files.

Opening a pipe may wait for a writer for ever, and a device never ends.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

from batnet_jax.errors import one_line

LARGEST = 1e300
"""The largest number in JSON that can be drawn and averaged."""


def open_regular(path: str | os.PathLike) -> int:
    """Open a regular file, or a link to one, for reading; return its descriptor.

    Raises: OSError if the path is not a regular file or cannot be opened; ValueError if the name
      holds a null byte.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError("it is a folder" if stat.S_ISDIR(mode) else "it is a pipe or a device")
    return descriptor


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file, or of an object in a bucket.

    Raises: OSError if it cannot be read.
    """
    if "://" in os.fspath(path):
        return path.read_bytes()
    with open(open_regular(path), "rb") as file:
        return file.read()


def read_json(path: Path) -> Any:
    """Return the contents of a file of JSON in UTF-8.

    Raises: OSError if the file cannot be read; ValueError if its content is not JSON.
    """
    try:
        return json.loads(read_bytes(path).decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def reason(error: OSError) -> str:
    """Return the reason in an error of reading, without the path."""
    return error.strerror or one_line(error)


def is_number(value: Any) -> bool:
    """Return whether a value of JSON is a finite number, and neither True nor False."""
    return type(value) in (int, float) and abs(value) < LARGEST  # False for nan
