"""Workdirs in a bucket of Google Cloud Storage, gs://BUCKET/FOLDER, with the paths of etils.

An object in a bucket is written as a whole or not at all, and cannot be appended to. Files that
grow by lines are therefore kept in a local folder and copied to the bucket with each checkpoint.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from batnet_jax.errors import UserError, one_line
from batnet_jax.runtime.atomic_write import write_atomically
from batnet_jax.runtime.paths import exists, is_file

SCHEME = "gs://"


def path_of(name: str) -> Path:
    """Return a workdir as a path: of pathlib for a folder, of etils for a bucket.

    Both have the same methods.

    Raises: UserError for a URL with another scheme, or if the library for buckets is missing.
    """
    if not name.startswith(SCHEME):
        if "://" in name:
            raise UserError(f"'{name}' is not a workdir: name a folder, or {SCHEME}BUCKET/FOLDER")
        return Path(name)
    bucket, _, folder = name.removeprefix(SCHEME).partition("/")
    if not bucket or not folder.strip("/"):
        raise UserError(
            f"'{name}' is not a workdir: name a folder in a bucket, {SCHEME}BUCKET/FOLDER"
        )
    try:
        import gcsfs  # noqa: F401  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError(
            f"the workdir '{name}' needs gcsfs: pip install -c constraints.txt -e '.[bucket]'"
        ) from error
    return epath.Path(name)  # type: ignore[return-value]


def is_bucket(workdir: Path) -> bool:
    """Return whether a workdir is in a bucket."""
    return str(workdir).startswith(SCHEME)


def absolute(path: Path) -> Path:
    """Return the absolute path; a path in a bucket is absolute already, which etils rejects."""
    return path if is_bucket(path) else path.absolute()


@contextlib.contextmanager
def reached(workdir: Path) -> Iterator[None]:
    """Convert the errors of the first access to a bucket.

    Raises: UserError if a bucket cannot be accessed. Errors of a folder are raised unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_bucket(workdir):
            raise
        raise UserError(
            f"cannot use '{workdir}' ({one_line(error)}): check the bucket's name, and whether "
            "this machine may read and write it (gcloud auth application-default login)"
        ) from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file of a workdir; after a kill the file is the old one or the complete new one."""
    if not is_bucket(path):
        write_atomically(path, content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content)


class Mirror:
    """The files of a workdir that grow by lines.

    In a folder they grow in place. For a bucket they grow in a temporary local folder, which
    `publish` copies to the bucket.

    Attributes:
      folder: the folder to write to.
    """

    folder: Path

    def __init__(self, workdir: Path, names: tuple[str, ...]):
        """Open the folder; copy the named files to it if a bucket has them."""
        self.folder = workdir
        self._scratch = None
        self._published: dict[Path, Any] = {}
        if is_bucket(workdir):
            self._workdir = workdir
            self._scratch = tempfile.TemporaryDirectory(
                prefix="batnet_", ignore_cleanup_errors=True
            )
            self.folder = Path(self._scratch.name)
            for name in names:
                if exists(workdir / name):
                    (self.folder / name).write_bytes((workdir / name).read_bytes())

    def publish(self) -> None:
        """Copy changed files to the bucket; do nothing for a folder."""
        if self._scratch is None:
            return
        for path in sorted(self.folder.rglob("*")):
            if is_file(path) and self._published.get(path) != path.stat().st_size:
                data = path.read_bytes()
                target = self._workdir / path.relative_to(self.folder).as_posix()
                target.write_bytes(data)
                self._published[path] = len(data)

    def close(self) -> None:
        """Publish for the last time; remove the temporary folder."""
        self.publish()
        if self._scratch is not None:
            self._scratch.cleanup()
