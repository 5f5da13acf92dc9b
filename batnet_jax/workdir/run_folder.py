"""The workdir's settings and labels, its lock, and checks before a run starts in it."""

import contextlib
import fcntl
import functools
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from batnet_jax.config import flatten, older_values
from batnet_jax.data.run_data import Identity
from batnet_jax.errors import UserError, printable
from batnet_jax.runtime.atomic_write import open_lock
from batnet_jax.runtime.paths import existing_parent, exists, is_folder
from batnet_jax.runtime.read_files import read_json, reason
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.gcs import is_bucket, reached, write_whole
from batnet_jax.workdir.same_run import check_settings

CONFIG = "config.json"
LABELS = "labels.json"
LOCK = "lock"


def check_workdir(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Check that a run with this config can start or resume in a workdir; write nothing.

    Raises: UserError if the workdir cannot be written to or holds a run with other settings.
    """
    check_writable(workdir)
    if is_bucket(workdir) and config.profile:
        raise UserError("config.profile needs a folder: name another workdir, or turn it off")
    if exists(workdir / CONFIG):
        _check_config(config, workdir)


@functools.cache
def _say_once(line: str) -> None:
    """Print a line on stderr, the first time: a start checks its workdir twice."""
    print(line, file=sys.stderr)


def _check_config(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Check that a run with this config can resume the run of a workdir.

    If `config.json` cannot be read or differs from the settings in a checkpoint, the checkpoint
    decides, because it has checksums.

    Raises: UserError if the run cannot be resumed, or if neither file can be read.
    """
    path = workdir / CONFIG
    try:
        check_settings(config, read_settings(workdir), workdir)
    except UserError:
        kept = checkpoint_run(workdir)
        if kept is None:
            raise
        check_settings(config, kept["config"], workdir)
        line = (
            f"warning: '{path}' is damaged or has been changed, and is left out: the settings that"
            " the run's checkpoint holds fit this command"
        )
        _say_once(printable(line))
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be read ({reason(error)}): let this user read it, or name another "
            "workdir"
        ) from error


def read_settings(workdir: Path) -> dict[str, Any]:
    """Return the contents of `config.json`.

    Raises: OSError if the file cannot be read; UserError if it is damaged.
    """
    path = workdir / CONFIG
    try:
        saved = read_json(path)
        if not isinstance(saved, dict):
            raise ValueError("is not an object")
        flatten(saved)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"'{path}' is damaged: delete it if you know the run's settings, or name another "
            "workdir"
        ) from error
    return saved


def checkpoint_run(workdir: Path) -> dict[str, Any] | None:
    """Return the metadata of the latest checkpoint that can be read and has the run's settings."""
    for step in reversed(checkpoints.steps_of(workdir)):
        with contextlib.suppress(UserError):
            run = checkpoints.restore_metadata(workdir, step)
            if run.get("config"):
                return run
    return None


def older_settings(workdir: Path) -> dict[str, Any]:
    """Return the fields that are newer than the run of a workdir, with the values that it used.

    Returns: values by dotted names; empty without a run, or if its settings cannot be read, which
      `check_workdir` reports.
    """
    try:
        return older_values(read_settings(workdir))
    except UserError:
        kept = checkpoint_run(workdir)
        return {} if kept is None else older_values(kept["config"])
    except Exception:  # a bucket raises errors of its own
        return {}


def check_writable(workdir: Path) -> None:
    """Check that a folder can be written to or a bucket can be read; write nothing.

    Raises: UserError if not.
    """
    if is_bucket(workdir):
        with reached(workdir):
            exists(workdir / CONFIG)
        return
    existing = existing_parent(workdir)
    if not is_folder(existing) or not os.access(existing, os.W_OK):
        raise UserError(f"cannot write to the workdir '{workdir}': name another workdir")


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Lock the workdir, so that no other process trains in it.

    The system releases the lock when the process ends in any way. A bucket has no locks.

    Raises: UserError if another process holds the lock, or if its file cannot be written.
    """
    if is_bucket(workdir):
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open_lock(workdir / LOCK)
    except OSError as error:
        raise UserError(
            f"cannot write to the workdir '{workdir}' ({error.strerror}): name another workdir"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"'{workdir}' is in use by {file.read().strip() or 'another process'}: wait for it"
                " or stop it, or name another workdir"
            ) from error
        except OSError:  # the file system has no locks
            pass
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def open_workdir(
    config: ml_collections.ConfigDict, workdir: Path, identities: Sequence[Identity]
) -> None:
    """Make the workdir and write `config.json` and `labels.json`.

    Raises: UserError if the workdir cannot be written to.
    """
    labels = [{"label": label, **who._asdict()} for label, who in enumerate(identities)]
    rows = ",\n".join(json.dumps(row) for row in labels)
    path = workdir
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        for name, text in ((CONFIG, config.to_json(indent=2)), (LABELS, f"[\n{rows}\n]")):
            path = workdir / name
            with reached(workdir):
                write_whole(path, text + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write '{path}' ({error.strerror}): move it away, or name another workdir"
        ) from error
