"""What the disk and the memory do to a run, told in a line."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from jax.errors import JaxRuntimeError

from batnet_jax.errors import RunFailure, UserError

TRAINING_MEMORY = (
    "config.batch.identities, config.data.image_size or config.model.width, or set "
    "config.model.dtype=bfloat16, and name another --workdir, for that is another run"
)
EVALUATION_MEMORY = "config.eval.batch; the same command with that goes on from the last checkpoint"

# The disk, rather than the program: full, over quota, read-only, a file too large, or failing.
DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG),
    *(errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM, errno.ENOENT),
)
# TensorStore, which writes Orbax's arrays, raises ValueError with this at the end.
OS_ERROR_CODE = re.compile(r"os_error_code='(\d+)'")


@contextlib.contextmanager
def as_run_failure(workdir: Path, *, lower: str) -> Iterator[None]:
    """Around what computes and writes: a disk or a memory that is full becomes a `RunFailure`.

    Args:
      workdir: written to within.
      lower: the fields that what is computed within needs less memory with.
    """
    try:
        yield
    except (UserError, RunFailure):
        raise
    except MemoryError as error:
        raise RunFailure(
            "out of memory on the host: lower config.data.cache_gb, config.eval.batch or "
            "config.batch.identities; the same command resumes from the last checkpoint"
        ) from error
    except JaxRuntimeError as error:
        wanted = str(error).strip().split("\n")[0]
        if "RESOURCE_EXHAUSTED" not in wanted:
            raise
        reason = wanted.partition("RESOURCE_EXHAUSTED:")[2].strip()[:200].rstrip(".")
        raise RunFailure(f"out of device memory ({reason}): lower {lower}") from error
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
            f"cannot write to the workdir '{workdir}' ({reason}): make room or mend it; the same "
            "command resumes from the last checkpoint"
        ) from error


def disk_error(error: BaseException) -> str | None:
    """What the disk has done, if it is the disk that an exception is about."""
    if isinstance(error, OSError):
        return error.strerror if error.errno in DISK else None
    found = OS_ERROR_CODE.search(str(error))
    if found is None or int(found[1]) not in DISK:
        return None
    return os.strerror(int(found[1]))
