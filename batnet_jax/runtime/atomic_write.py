"""Atomic writes: a file at a path is the old one or the complete new one, whatever happens."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` at the end.

    The folder is made if it does not exist. The temporary file exists and is empty at first. Its
    name is unique, so several processes may write to one path. After an exception the temporary
    file is removed and `path` is unchanged. Only a killed process leaves its temporary file behind,
    under a name that ends in `.partial`.

    Raises: OSError if the file cannot be written or `path` is a folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name[:50]}.{secrets.token_hex(4)}.partial")
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):  # the first exception is the one to see
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8.

    Raises: OSError if the file cannot be written or `path` is a folder.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _flush(path: Path) -> None:
    """Force a file to the disk: otherwise a crash after the rename might leave an empty file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
