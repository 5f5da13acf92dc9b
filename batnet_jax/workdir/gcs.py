"""A workdir in a bucket of Google Cloud Storage, gs://BUCKET/FOLDER: paths are those of etils.

An object is written whole or not at all, and cannot be appended to. So what grows by lines lies in
a local folder, and is copied when it matters.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from batnet_jax.errors import UserError
from batnet_jax.runtime.atomic_write import write_atomically

SCHEME = "gs://"


def path_of(name: str) -> Path:
    """The path of a workdir; etils' have the methods of pathlib's.

    Raises: UserError for a URL of something else, or if the library for buckets is missing.
    """
    if not name.startswith(SCHEME):
        if "://" in name:
            raise UserError(f"--workdir={name}: name a folder, or {SCHEME}BUCKET/FOLDER")
        return Path(name)
    bucket, _, folder = name.removeprefix(SCHEME).partition("/")
    if not bucket or not folder.strip("/"):
        raise UserError(f"--workdir={name}: name a folder in a bucket, {SCHEME}BUCKET/FOLDER")
    try:
        import gcsfs  # noqa: F401  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError(
            f"--workdir={name} needs gcsfs: pip install -c constraints.txt -e '.[bucket]'"
        ) from error
    return epath.Path(name)  # type: ignore[return-value]


def is_bucket(workdir: Path) -> bool:
    """Whether a workdir is one."""
    return str(workdir).startswith(SCHEME)


def absolute(path: Path) -> Path:
    """`path.absolute()`; a bucket's is that already, which etils does not know."""
    return path if is_bucket(path) else path.absolute()


@contextlib.contextmanager
def reached(workdir: Path) -> Iterator[None]:
    """Where a bucket is first read, or first written to.

    Raises: UserError if that fails; of a workdir that is none, whatever does.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_bucket(workdir):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"cannot use '{workdir}' ({reason}): look at the bucket's name, and whether this "
            "machine may read and write it (gcloud auth application-default login)"
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Writes a file of a workdir at once: after a kill it is the old one or the new one."""
    if is_bucket(path):
        path.write_text(text)
        return
    write_atomically(path, text)


class Mirror:
    """Files that grow: in the workdir, or for a bucket in a local folder, which `publish` copies.

    Attributes:
      folder: where to write.
    """

    folder: Path

    def __init__(self, workdir: Path, names: tuple[str, ...]):
        """Fetches the files of these names, where they are there."""
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
                if (workdir / name).exists():
                    (self.folder / name).write_bytes((workdir / name).read_bytes())

    def publish(self) -> None:
        """Copies the files that have changed, whole."""
        if self._scratch is None:
            return
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and self._published.get(path) != path.stat().st_size:
                data = path.read_bytes()
                target = self._workdir / path.relative_to(self.folder).as_posix()
                target.write_bytes(data)
                self._published[path] = len(data)

    def close(self) -> None:
        """The last copy."""
        self.publish()
        if self._scratch is not None:
            self._scratch.cleanup()
