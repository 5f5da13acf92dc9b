"""Atomic writes: a file at a path is the old one or the complete new one, whatever happens."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

ORPHAN_AGE = 60.0
"""Seconds. A younger temporary file may belong to a process that has not locked it yet."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` at the end.

    A missing folder is made. The temporary file exists and is empty at first. Its name is unique,
    so several processes may write to one path. After an exception the temporary file is removed and
    `path` is unchanged. A killed process leaves its temporary file behind; its name ends in
    `.partial`, and a later writer of the same path removes it.

    Raises: OSError if the file cannot be written or `path` is a folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = path.name[:50]
    remove_orphans(path.parent, re.escape(stem))
    temporary = path.with_name(f"{stem}.{secrets.token_hex(4)}.partial")
    with temporary.open("xb") as lock:
        try:
            _lock(lock.fileno())
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            flush_folder(path.parent)
        finally:
            with contextlib.suppress(OSError):  # the first exception is the one to see
                temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8; bytes of file names that are not text are written out.

    Raises: OSError if the file cannot be written or `path` is a folder.
    """
    with atomic_path(path) as temporary:
        text = isinstance(content, str)
        temporary.write_bytes(content.encode(errors="backslashreplace") if text else content)


def _flush(path: Path) -> None:
    """Force a file to the disk: otherwise a crash after the rename might leave an empty file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Force the names in a folder to the disk: otherwise a crash might undo a rename.

    If the file system cannot do so, nothing happens: the file is already written.
    """
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def flush_tree(path: Path) -> None:
    """Force all files below a folder, and their names, to the disk, the folder's own name included.

    Raises: OSError if a file cannot be written.
    """
    for folder, _, names in os.walk(path):
        for name in names:
            _flush(Path(folder, name))
        flush_folder(Path(folder))
    flush_folder(path.parent)


def open_lock(path: Path) -> TextIO:
    """Open a file to be locked; make it if it does not exist, and keep its content.

    A link at the path is not followed, because it might lead to any file of this user.

    Raises: OSError if the file cannot be opened, or is a link.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(error.errno, f"'{path.name}' is a link") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EEXIST, f"'{path.name}' is a pipe or a device")
    return open(descriptor, "r+", encoding="utf-8", errors="replace")


def _lock(descriptor: int) -> bool:
    """Lock an open file until it is closed or its process ends.

    Returns: False if another process holds the lock, or if the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_orphans(folder: Path, pattern: str) -> None:
    """Remove the temporary files of killed processes: old files that no process has locked.

    Args:
      folder: of the files.
      pattern: a regular expression of the names that were to be written.
    """
    name = re.compile(rf"(?:{pattern})\.[0-9a-f]{{8}}\.partial")
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):  # another process may have removed the file
            if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with open(entry.path, "rb") as file:
                    age = time.time() - entry.stat().st_mtime
                    if age > ORPHAN_AGE and _lock(file.fileno()):
                        os.unlink(entry.path)
