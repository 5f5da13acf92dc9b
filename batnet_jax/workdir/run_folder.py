"""What a run's folder says of it: its settings and labels, and whether it is the same run."""

import contextlib
import fcntl
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from batnet_jax.config import RESUMABLE_FIELDS, default_config
from batnet_jax.data.run_data import Identity
from batnet_jax.errors import UserError
from batnet_jax.models import BATNet
from batnet_jax.workdir.gcs import is_bucket, reached, write_whole

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
    check_same_run(config, saved, workdir)


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


def check_same_run(config: ml_collections.ConfigDict, saved: dict[str, Any], workdir: Path) -> None:
    """Refuses to continue a run with settings that would make it another run.

    A field that is younger than the run has its default there.

    Raises: UserError naming the first field that differs.
    """
    wanted = flatten(json.loads(config.to_json()))
    have = flatten(json.loads(default_config().to_json())) | flatten(saved)
    free = RESUMABLE_FIELDS
    if config.schedule == "cosine":  # the rate depends on where it comes to 0
        free = tuple(name for name in free if name != "num_epochs")
    for field in sorted(wanted.keys() | have.keys()):
        is_free = any(field == name or field.startswith(f"{name}.") for name in free)
        if not is_free and wanted.get(field) != have.get(field):
            raise UserError(
                f"'{workdir}' holds a run with config.{field}={have.get(field)!r}, not "
                f"{wanted.get(field)!r}: pass the same to resume it, or name another --workdir"
            )


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts to one with dotted keys."""
    flat = {}
    for key, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def check_architecture(
    config: ml_collections.ConfigDict, run: dict[str, Any], workdir: Path
) -> None:
    """Refuses a config that describes another network than the checkpoint's.

    Raises: UserError naming the first field that differs.
    """
    for field, value in config.model.items():
        # A checkpoint older than the field is of the network that the field's default describes.
        saved = run["model"].get(field, getattr(BATNet, field, None))
        if saved != value:
            raise UserError(
                f"'{workdir}' holds a network with model.{field}={saved!r}, and the config says "
                f"{value!r}: pass --config.model.{field}={saved}, or another --workdir"
            )


def check_data(saved: dict[str, str], now: dict[str, str], workdir: Path) -> None:
    """Refuses to go on with other training images; warns of other test images.

    Args:
      saved: `fingerprints` of the data of the checkpoint; {} in one of an older version.
      now: of the data now.
      workdir: for the message.

    Raises: UserError with both fingerprints.
    """
    changed = [name for name in saved if saved[name] != now.get(name, saved[name])]
    if "train" in changed:
        raise UserError(
            f"'{workdir}' was trained on other images (fingerprint {saved['train']}, now "
            f"{now['train']}): restore the data set, or name another --workdir"
        )
    for name in changed:
        print(
            f"warning: the images of {name} have changed since '{workdir}' was last saved: "
            "figures before and after do not compare",
            file=sys.stderr,
        )
