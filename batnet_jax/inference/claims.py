"""Claims of shards, by which only one of the processes that share a folder embeds a shard.

A claim is a lock on one byte of a file, which the system drops when the process ends in any way.
Not every file system of a cluster has locks. Without them two processes may do the same work, and
both write the same file.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from batnet_jax.runtime.atomic_write import open_lock

Claim = Literal["ours", "taken", "unknown"]


class Claims:
    """The claims of this process in a folder."""

    def __init__(self, path: Path):
        """Open the file of the locks; make it if it does not exist.

        Args:
          path: of the file; no other code of the process may open it, as closing a file drops the
            locks of the process.

        Raises: OSError if the file cannot be opened.
        """
        self._file = open_lock(path)

    @contextlib.contextmanager
    def claim(self, number: int) -> Iterator[Claim]:
        """Claim a shard within the context.

        Args:
          number: of the shard.
        Yields: "ours"; "taken" if another process has it; "unknown" where there are no locks.
        """
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number, os.SEEK_SET)
        except OSError as error:
            yield "taken" if error.errno in (errno.EACCES, errno.EAGAIN) else "unknown"
            return
        try:
            yield "ours"
        finally:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number, os.SEEK_SET)

    def close(self) -> None:
        """Drop all claims."""
        self._file.close()
