"""Checks of the contents of a checkpoint, and the errors for a checkpoint that cannot be used."""

import errno
import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batnet_jax.errors import UserError, first_line
from batnet_jax.runtime.resource_errors import is_out_of_reach
from batnet_jax.workdir.checksums import METADATA, array_checksums, metadata_checksum


def check_room(folder: str, nbytes: int) -> None:
    """Check that the folder's disk has room for `nbytes`, before Orbax writes a part of them.

    The room in a bucket or within a quota is unknown and not checked.

    Raises: OSError with both sizes.
    """
    if "://" in folder:
        return
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        needs = f"a checkpoint needs {nbytes / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needs}")


def have_checksums(tree: Any, sums: Mapping[str, int]) -> bool:
    """Return whether the arrays of a tree have a checkpoint's checksums, whatever their names.

    Orbax names an array differently when it does not know the tree's types.

    Args:
      tree: all arrays of the checkpoint.
      sums: the checkpoint's checksums; empty for a checkpoint of an older version.
    """
    wanted = Counter(repr(value) for name, value in sums.items() if name != METADATA)
    return not sums or Counter(map(repr, array_checksums(tree).values())) == wanted


def is_metadata(run: Any) -> bool:
    """Return whether JSON is the metadata of a checkpoint; older versions saved fewer sections."""
    if not isinstance(run, dict) or not isinstance(run.get("identities"), list):
        return False
    named = all(
        isinstance(who, list) and len(who) == 3 and all(map(isinstance, who, (str, str | int, str)))
        for who in run["identities"]
    )
    sections = [run.get("model"), *(run.get(name, {}) for name in ("config", "data", "checksums"))]
    return named and all(isinstance(section, dict) for section in sections)


def has_own_checksum(run: Any) -> bool:
    """Return whether JSON of any structure has the checksum of metadata that it holds itself."""
    sums = run.get("checksums") if isinstance(run, dict) else None
    return isinstance(sums, dict) and sums.get(METADATA) == metadata_checksum(run)


def declared_bytes(leaf: Any) -> int:
    """Return an upper bound of the memory for reading an array; chunks are read whole."""
    shape = getattr(leaf, "shape", None) or ()
    storage = getattr(leaf, "storage", None)
    chunk = (storage and storage.chunk_shape) or ()
    return max(math.prod(shape), math.prod(chunk)) * 8  # bytes of the largest type


class DamagedError(UserError):
    """A checkpoint that cannot be read, lacks a part or fails a checksum.

    Attributes:
      reason: what is wrong with it.
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


def damaged(workdir: Path, step: int, reason: str) -> DamagedError:
    """Return the error for a damaged checkpoint."""
    message = f"checkpoint {step} in '{workdir}' is damaged ({reason}): restore it, or give another"
    return DamagedError(f"{message} step or workdir", reason)


def other_version(workdir: Path, step: int, reason: str) -> UserError:
    """Return the error for a checkpoint that is whole but does not fit."""
    return UserError(
        f"checkpoint {step} in '{workdir}' is whole, but another version's or another network's "
        f"({reason}): use the version that it was made with, or another step or workdir"
    )


def misplaced(workdir: Path, step: int, saved: int) -> UserError:
    """Return the error for a whole checkpoint in the folder of another step."""
    return UserError(
        f"checkpoint {step} in '{workdir}' holds the state of step {saved}: give the folder its"
        f" name {saved} again, or move it away"
    )


def unreadable(workdir: Path, step: int, error: Exception) -> UserError:
    """Return the error for a checkpoint that Orbax could not read."""
    if is_out_of_reach(error):
        return UserError(
            f"checkpoint {step} in '{workdir}' cannot be read ({first_line(error)}): let this user "
            "read it, or give another step or workdir; it stays where it is"
        )
    return damaged(workdir, step, first_line(error))
