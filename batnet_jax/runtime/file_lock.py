"""A lock for the writers of a file: one at a time; readers need none."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from batnet_jax.errors import UserError
from batnet_jax.runtime.atomic_write import open_lock


@contextlib.contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold the lock of a file that is read, changed and written.

    The lock is a file beside it, `NAME.lock`, which is removed at the end. The system releases the
    lock of a killed process, and the next writer takes its file over.

    Raises: UserError if another process holds the lock; OSError if the lock cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{path.name[:200]}.lock")
    while True:
        with open_lock(lock) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                user = file.read(100).strip() or "another process"
                raise UserError(
                    f"'{path}' is being written by {user}: wait for it, or stop it"
                ) from error
            except OSError:  # the file system has no locks
                yield
                return
            if not _is_at(file.fileno(), lock):
                continue  # its last holder has removed it meanwhile
            file.seek(0)
            file.truncate()
            file.write(f"process {os.getpid()}\n")
            file.flush()
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    lock.unlink()
            return


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except OSError:
        return False
