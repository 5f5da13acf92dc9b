"""What a run's folder says of it: its settings and labels, and whether it is the same run."""

import contextlib
import fcntl
import json
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import ml_collections

from batnet_jax.data.run_data import Identity
from batnet_jax.errors import UserError
from batnet_jax.workdir.gcs import is_bucket, reached, write_whole
from batnet_jax.workdir.same_run import check_settings

CONFIG = "config.json"
LABELS = "labels.json"
LOCK = "lock"


def check_workdir(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Refuses a workdir that cannot be written to or is another run's; writes nothing.

    Raises: UserError that says which.
    """
    check_writable(workdir)
    if is_bucket(workdir) and config.profile:
        raise UserError("config.profile needs a folder: name another --workdir, or turn it off")
    if (workdir / CONFIG).exists():
        _check_config(config, workdir)


def _check_config(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Refuses a workdir whose `config.json` is another run's, or cannot be read.

    Raises: UserError that says which.
    """
    path = workdir / CONFIG
    try:
        saved = json.loads(path.read_text())
        if not isinstance(saved, dict):
            raise ValueError("is no object")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"'{path}' is damaged: delete it if you know the run's settings, or name another "
            "--workdir"
        ) from error
    check_settings(config, saved, workdir)


def check_writable(workdir: Path) -> None:
    """Refuses a workdir that cannot be written to, or a bucket that cannot be read; writes nothing.

    Raises: UserError.
    """
    if is_bucket(workdir):
        with reached(workdir):
            (workdir / CONFIG).exists()
        return
    existing = next(p for p in (workdir, *workdir.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"cannot write to the workdir '{workdir}': name another --workdir")


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps others from training in the workdir; the lock goes with the process, however it ends.

    A bucket knows no locks.

    Raises: UserError if another process trains there, or the file cannot be made.
    """
    if is_bucket(workdir):
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / LOCK).open("a+")
    except OSError as error:
        raise UserError(
            f"cannot write to the workdir '{workdir}' ({error.strerror}): name another --workdir"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"'{workdir}' is in use by {file.read().strip() or 'another process'}: wait for it"
                " or stop it, or name another --workdir"
            ) from error
        except OSError:  # a file system without locks
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def open_workdir(
    config: ml_collections.ConfigDict, workdir: Path, identities: Sequence[Identity]
) -> None:
    """Makes the workdir and writes `config.json` and `labels.json`, each at once and whole.

    Raises: UserError if it cannot be written to.
    """
    labels = [{"label": label, **who._asdict()} for label, who in enumerate(identities)]
    rows = ",\n".join(json.dumps(row) for row in labels)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        for name, text in ((CONFIG, config.to_json(indent=2)), (LABELS, f"[\n{rows}\n]")):
            with reached(workdir):
                write_whole(workdir / name, text + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write to the workdir '{workdir}' ({error.strerror}): name another --workdir"
        ) from error
