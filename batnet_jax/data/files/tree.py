"""A user's files, wherever they lie: a folder, a .zip or a .tar, all read in place.

Nothing is ever extracted, and only names that a listing gave can be read, so an archive cannot
reach outside itself.
"""

import hashlib
import os
import posixpath
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from batnet_jax.data.files.safe_open import check_bytes, file_part, open_part, read_whole
from batnet_jax.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
IMAGES = ".jpg, .png, .bmp, .webp or .tif"  # the usual ones, for messages
MAX_UNPACKED_BYTES = 8_000_000_000
"""Bytes of a file that is taken out of a .zip, beside it on the disk; cuhk-03.mat has 2e9."""
MAX_NAME_LENGTH = 4096
"""Bytes of a path in an archive, as Linux has it."""
MAX_FOLDERS = 100_000
"""Below one place. Links that lead to and fro make any number of ways through a few folders."""
MAX_DEPTH = 100
"""Folders in folders."""


class FileTree:
    """Files below one place; get one from `open_tree`.

    Attributes:
      location: for messages, such as 'data/manual/market.zip/query'.
    """

    location: str

    @property
    def names(self) -> list[str]:
        """Relative paths with forward slashes, sorted; hidden files are left out."""
        raise NotImplementedError

    def below(self, folder: str) -> "FileTree":
        """The part inside `folder`, without any names if that does not exist."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """A hash that changes when an image is added, removed, renamed or replaced."""
        raise NotImplementedError

    def images(self) -> list[str]:
        """The names that end like an image's, in upper or lower case."""
        return [name for name in self.names if name.lower().endswith(IMAGE_SUFFIXES)]

    def read(self, name: str) -> bytes:
        """The content of the file `name`, one of `names`.

        Raises: UserError if it cannot be read (damaged archive, no permission, password, ...).
        """
        try:
            return self._read(name)
        except Exception as error:  # whatever a damaged archive leads the library into
            raise UserError(
                f"'{self.location}/{name}' cannot be read ({_one_line(error)}): "
                "restore or remove it"
            ) from error

    def open_binary(self, name: str) -> BinaryIO:
        """The file `name`, one of `names`, at random access; closes itself when nobody holds it.

        What lies in a .zip is copied to a temporary file without a name: to step back in
        compressed data is to read it again from its start.

        Raises: UserError if it cannot be opened.
        """
        try:
            return self._open(name)
        except Exception as error:  # whatever a damaged archive leads the library into
            raise UserError(
                f"'{self.location}/{name}' cannot be opened ({_one_line(error)}): restore it, or "
                "unpack the archive that it lies in"
            ) from error

    def _read(self, name: str) -> bytes:
        raise NotImplementedError

    def _open(self, name: str) -> BinaryIO:
        raise NotImplementedError


class _Content(NamedTuple):
    """How to get at one file of an archive."""

    read: Callable[[], bytes]
    open: Callable[[], BinaryIO]


class _Directory(FileTree):
    def __init__(self, path: Path):
        self._path = path
        self.location = str(path)

    @cached_property
    def names(self) -> list[str]:
        try:
            return sorted(_walk(self._path))
        except (OSError, RecursionError) as error:
            raise UserError(f"'{self.location}' cannot be read ({_one_line(error)})") from error

    def below(self, folder: str) -> FileTree:
        return _Directory(self._path / folder)

    def fingerprint(self) -> str:
        try:
            stats = [(name, os.stat(self._path / name)) for name in self.images()]
        except OSError as error:
            raise UserError(
                f"'{error.filename}' cannot be read ({error.strerror}): restore or remove it"
            ) from error
        return _hash((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)

    def _read(self, name: str) -> bytes:
        return read_whole(self._path / name)

    def _open(self, name: str) -> BinaryIO:
        return open_part(self._path / name, 0, os.stat(self._path / name).st_size)


class _Archive(FileTree):
    """Part of an archive: what lies inside its folder `inside` ("" = all)."""

    def __init__(self, path: Path, inside: str, files: dict[str, _Content]):
        self._path = path
        self._inside = inside
        self._files = files
        self.location = posixpath.join(str(path), inside) if inside else str(path)

    @cached_property
    def names(self) -> list[str]:
        return sorted(self._files)

    def below(self, folder: str) -> FileTree:
        files = {
            name.removeprefix(folder + "/"): content
            for name, content in self._files.items()
            if name.startswith(folder + "/")
        }
        return _Archive(self._path, posixpath.join(self._inside, folder), files)

    def fingerprint(self) -> str:
        stat = os.stat(self._path)
        path = os.path.abspath(self._path)
        return _hash([(path, self._inside, stat.st_size, stat.st_mtime_ns)])

    def _read(self, name: str) -> bytes:
        return self._files[name].read()

    def _open(self, name: str) -> BinaryIO:
        return self._files[name].open()


def open_tree(path: str | os.PathLike) -> FileTree:
    """Opens a directory (symbolic links are followed), a .zip or a .tar.

    Raises: UserError if there is none of these at `path`, or the archive is damaged.
    """
    path = Path(path)
    if path.is_dir():
        return _Directory(path)
    if not is_archive(path):
        raise UserError(f"'{path}' is no directory, .zip or .tar: give one that exists")
    try:
        files = _zip_files(path) if path.suffix.lower() == ".zip" else _tar_files(path)
    except Exception as error:  # whatever a damaged archive leads the library into
        raise UserError(
            f"'{path}' cannot be read ({_one_line(error)}): restore or remove it"
        ) from error
    if any(len(name) > MAX_NAME_LENGTH for name in files):
        raise UserError(
            f"'{path}' holds a name of more than {MAX_NAME_LENGTH:,} characters: pack it anew"
        )
    # The names never become paths on disk, so one like '../x' is odd but harmless.
    files = {posixpath.normpath(name).lstrip("/"): content for name, content in files.items()}
    return _Archive(path, "", {name: files[name] for name in files if not is_hidden(name)})


def _walk(path: Path) -> Iterator[str]:
    """The relative names of the files below `path`, through symbolic links; nothing if absent."""

    def stop(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    above: dict[str, tuple[str, ...]] = {}  # the real paths of each folder and those it lies in
    walk = os.walk(path, followlinks=True, onerror=stop)
    for number, (folder, folders, files) in enumerate(walk):
        if number > MAX_FOLDERS:
            raise OSError(f"more than {MAX_FOLDERS:,} folders: do links in it lead to and fro?")
        if folder.count(os.sep) > str(path).count(os.sep) + MAX_DEPTH:
            raise OSError(f"more than {MAX_DEPTH} folders, one in another")
        real, parents = os.path.realpath(folder), above.get(os.path.dirname(folder), ())
        above[folder] = (*parents, real)
        folders[:] = [] if real in parents else [name for name in folders if not is_hidden(name)]
        if real in parents:  # a link back up
            continue
        top = os.path.relpath(folder, path).replace(os.sep, "/")
        for name in files:
            if not is_hidden(name):
                yield posixpath.normpath(posixpath.join(top, name))


def is_hidden(name: str) -> bool:
    """Whether to pass over a file: dot files, and the shadow files in archives made by macOS."""
    return any(
        part == "__MACOSX" or (part.startswith(".") and part not in (".", ".."))
        for part in name.split("/")
    )


def is_archive(path: Path) -> bool:
    """Whether `open_tree` takes this file for one."""
    return path.is_file() and path.suffix.lower() in (".zip", ".tar")


def _zip_files(path: Path) -> dict[str, _Content]:
    archive = zipfile.ZipFile(path)  # closes itself when the last reader is gone

    def read(info: zipfile.ZipInfo) -> bytes:
        check_bytes(info.file_size)
        return archive.read(info)

    def unpack(info: zipfile.ZipInfo) -> BinaryIO:
        if info.file_size > MAX_UNPACKED_BYTES:
            raise OSError(
                f"{info.file_size:,} bytes, of which at most {MAX_UNPACKED_BYTES:,} are unpacked"
            )
        with archive.open(info) as packed, tempfile.TemporaryFile() as file:
            shutil.copyfileobj(packed, file, 1 << 20)
            file.flush()
            return file_part(os.dup(file.fileno()), 0, info.file_size)

    return {
        info.filename: _Content(partial(read, info), partial(unpack, info))
        for info in archive.infolist()
        if not info.is_dir()
    }


def _tar_files(path: Path) -> dict[str, _Content]:
    files = {}
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            if member.issym() or member.islnk():
                raise tarfile.TarError(
                    f"it holds the link {member.name}; pack it with tar -h --hard-dereference"
                )
            if member.isreg():
                place = (member.offset_data, member.size)
                files[member.name] = _Content(
                    partial(read_whole, path, *place), partial(open_part, path, *place)
                )
    return files


def _hash(facts) -> str:
    return hashlib.sha256(repr(sorted(facts)).encode()).hexdigest()[:16]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
