"""Errors of disk and memory as a `RunFailure`, whose message is one line with a remedy."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jax.errors import JaxRuntimeError

from batnet_jax.errors import RunFailure, UserError, first_line

# Errors of the disk, not of the program: full, over quota, read-only, file too large, failing.
DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG),
    *(errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM, errno.ENOENT),
)
# Something else is where a file or a folder belongs.
_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENXIO)
# Errors of reading that say nothing about the content: permissions, too many open files, a network.
_OUT_OF_REACH = (
    *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE),
    *(errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT),
)
# TensorStore's names of such errors, with which the message of its ValueError begins.
_STATUSES = (
    *("PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE"),
    *("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"),
)
# TensorStore, which writes Orbax's arrays, raises a ValueError that ends with this.
OS_ERROR_CODE = re.compile(r"os_error_code='(\d+)'")


class MemoryRemedies(NamedTuple):
    """The ends of the messages about too little memory, which name settings of the caller."""

    device: str
    """The remedy if the memory of a device does not suffice."""
    host: str
    """The remedy if the memory of the host does not suffice."""


@contextlib.contextmanager
def as_run_failure(workdir: Path, *, memory: MemoryRemedies) -> Iterator[None]:
    """Convert errors of disk and memory within the context to a `RunFailure`.

    Args:
      workdir: the folder that is written to.
      memory: the remedies for too little memory.

    Raises: RunFailure with the cause and a remedy; other exceptions unchanged.
    """
    try:
        yield
    except (UserError, RunFailure):
        raise
    except MemoryError as error:
        raise RunFailure(f"out of memory on the host: {memory.host}") from error
    except JaxRuntimeError as error:
        line = first_line(error)
        if "RESOURCE_EXHAUSTED" not in line:
            raise
        reason = line.partition("RESOURCE_EXHAUSTED:")[2].strip().rstrip(".")
        raise RunFailure(f"out of device memory ({reason}): {memory.device}") from error
    except TimeoutError as error:
        raise RunFailure(
            f"writing to the workdir '{workdir}' took too long: the disk stalls, or the system's "
            "clock was set; the same command resumes from the last checkpoint"
        ) from error
    except (OSError, ValueError) as error:
        reason = disk_error(error)
        if reason is None:
            raise
        raise RunFailure(
            f"cannot write to the workdir '{workdir}' ({reason}): make room or repair it; the same "
            "command resumes from the last checkpoint"
        ) from error


def disk_error(error: BaseException) -> str | None:
    """Return the system's text for an error of the disk, or None for any other exception."""
    if isinstance(error, OSError):
        if error.errno in _IN_THE_WAY:
            return f"{error.strerror}: '{error.filename2 or error.filename}'"
        return error.strerror if error.errno in DISK else None
    found = OS_ERROR_CODE.search(str(error))
    if found is None or int(found[1]) not in DISK:
        return None
    return os.strerror(int(found[1]))


def is_out_of_reach(error: BaseException) -> bool:
    """Return whether reading failed for a reason outside the content, such as permissions.

    The file may then be whole.
    """
    if isinstance(error, OSError):
        return error.errno in _OUT_OF_REACH
    return str(error).startswith(_STATUSES)
