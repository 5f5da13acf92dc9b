"""A user's files in a folder, a .zip or a .tar, read in place through one interface.

Archives are not extracted, and only listed names can be read, so an archive cannot reach files
outside itself.
"""

import hashlib
import os
import posixpath
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from batnet_jax.data.files import heic
from batnet_jax.data.files.safe_open import check_bytes, file_part, open_part, read_whole
from batnet_jax.errors import UserError, one_line
from batnet_jax.runtime.paths import is_file, is_folder

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp"),
    *(".tif", ".tiff", ".gif", ".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm"),
)
IMAGES = ".jpg, .png, .bmp, .webp or .tif"  # the usual ones, for messages
MAX_SUFFIXES = 8
"""Suffixes in a message."""
MAX_UNPACKED_BYTES = 8_000_000_000
"""Limit of a file that is unpacked from a .zip to the disk; cuhk-03.mat has 2e9 bytes."""
MAX_NAME_LENGTH = 4096
"""Limit of a path in an archive, as on Linux."""
MAX_FOLDERS = 100_000
"""Limit of the folders reached a second time: symbolic links form endless paths through few."""
MAX_DEPTH = 100
"""Limit of nested folders."""
SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "@__thumb", "@recycle", "@recently-snapshot", "@tmp", "@sharebin"}
    | {"#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found"}
)
"""Folders that systems and network storage make beside the user's: thumbnails and deleted files."""
SYSTEM_FILES = re.compile(r"synophoto_thumb|synofile_thumb|synovideo_|~\$|thumbs\.db|desktop\.ini")
"""Starts of names of files that systems and network storage make, in lower case."""


class FileTree:
    """The files below a folder or in an archive; created by `open_tree`.

    Attributes:
      location: the path for messages, such as 'data/manual/market.zip/query'.
    """

    location: str

    @property
    def names(self) -> list[str]:
        """The relative paths of the files, with forward slashes, sorted, without hidden files."""
        raise NotImplementedError

    def below(self, folder: str) -> "FileTree":
        """Return the tree below `folder`; it has no names if the folder does not exist."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Return a hash that changes when an image is added, removed, renamed or replaced."""
        raise NotImplementedError

    def images(self) -> list[str]:
        """Return the names with the suffix of an image, in upper or lower case."""
        return [name for name in self.names if is_image_name(name)]

    def left_out(self) -> Counter[str]:
        """Count the files that are not images, by suffix; "" = files without a suffix."""
        others = (name for name in self.names if not is_image_name(name))
        return Counter(posixpath.splitext(name)[1].lower() for name in others)

    def read(self, name: str) -> bytes:
        """Return the content of the file `name`, one of `names`.

        Raises: UserError if it cannot be read: a damaged archive, no permission, a password.
        """
        try:
            return self._read(name)
        except Exception as error:  # a damaged archive raises many types
            raise UserError(
                f"'{self.location}/{name}' cannot be read ({one_line(error)}): restore or remove it"
            ) from error

    def open_binary(self, name: str) -> BinaryIO:
        """Open the file `name`, one of `names`, for random access; garbage collection closes it.

        A file in a .zip is copied to an unnamed temporary file, because a backward seek in
        compressed data would read again from the start.

        Raises: UserError if it cannot be opened.
        """
        try:
            return self._open(name)
        except Exception as error:  # a damaged archive raises many types
            raise UserError(
                f"'{self.location}/{name}' cannot be opened ({one_line(error)}): restore it, or "
                "unpack the archive that it lies in"
            ) from error

    def _read(self, name: str) -> bytes:
        raise NotImplementedError

    def _open(self, name: str) -> BinaryIO:
        raise NotImplementedError


class _Content(NamedTuple):
    """Functions that read and open one file of an archive."""

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
            raise UserError(f"'{self.location}' cannot be read ({one_line(error)})") from error

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
    """The files of an archive below its folder `inside`; "" = all files."""

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
    """Open a folder (following symbolic links), a .zip or a .tar.

    Raises: UserError if `path` is none of the three, or if the archive is damaged.
    """
    path = Path(path)
    if is_folder(path):
        return _Directory(path)
    if not is_archive(path):
        raise UserError(f"'{path}' is not a folder, .zip or .tar: give one that exists")
    try:
        files = _zip_files(path) if path.suffix.lower() == ".zip" else _tar_files(path)
    except Exception as error:  # a damaged archive raises many types
        raise UserError(
            f"'{path}' cannot be read ({one_line(error)}): restore or remove it"
        ) from error
    if any(len(name) > MAX_NAME_LENGTH for name in files):
        raise UserError(
            f"'{path}' holds a name of more than {MAX_NAME_LENGTH:,} characters: pack it again"
        )
    # Names never become paths on the disk, so a name like '../x' is harmless.
    files = {posixpath.normpath(name).lstrip("/"): content for name, content in files.items()}
    return _Archive(path, "", {name: files[name] for name in files if not is_hidden(name)})


def _walk(path: Path) -> Iterator[str]:
    """Yield the relative names of the files below `path`, also through symbolic links."""

    def stop(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    above: dict[str, tuple[str, ...]] = {}  # folder -> its real path and those of its parents
    seen: set[str] = set()
    again = 0
    for folder, folders, files in os.walk(path, followlinks=True, onerror=stop):
        if folder.count(os.sep) > str(path).count(os.sep) + MAX_DEPTH:
            raise OSError(f"more than {MAX_DEPTH} nested folders")
        real, parents = os.path.realpath(folder), above.get(os.path.dirname(folder), ())
        above[folder] = (*parents, real)
        again += real in seen
        seen.add(real)
        if again > MAX_FOLDERS:
            raise OSError(
                f"links lead again to more than {MAX_FOLDERS:,} folders: do links form a loop?"
            )
        folders[:] = [] if real in parents else [name for name in folders if not is_hidden(name)]
        if real in parents:  # a link to a parent
            continue
        top = os.path.relpath(folder, path).replace(os.sep, "/")
        for name in files:
            if not is_hidden(name):
                yield posixpath.normpath(posixpath.join(top, name))


def is_hidden(name: str) -> bool:
    """Return whether to skip a file: a dot file, or one that a system made for itself."""
    return any(
        part.lower() in SYSTEM_FOLDERS
        or SYSTEM_FILES.match(part.lower()) is not None
        or (part.startswith(".") and part not in (".", ".."))
        for part in name.split("/")
    )


def is_image_name(name: str) -> bool:
    """Return whether a name has the suffix of an image, in upper or lower case."""
    return name.lower().endswith(image_suffixes())


def image_suffixes() -> tuple[str, ...]:
    """Return the suffixes of images that can be read, in lower case."""
    return IMAGE_SUFFIXES + (heic.SUFFIXES if heic.reads_heic() else ())


def describe_left_out(counts: Counter[str]) -> str:
    """Describe the counts of `FileTree.left_out`, the most frequent first; "" = no counts."""
    if not counts:
        return ""
    parts = [
        f"{number:,} {suffix or 'without a suffix'}" for suffix, number in counts.most_common()
    ]
    more = f" and {len(parts) - MAX_SUFFIXES} suffixes more" if len(parts) > MAX_SUFFIXES else ""
    total = counts.total()
    hint = f"; {heic.INSTALL} reads HEIC" if any(counts[s] for s in heic.SUFFIXES) else ""
    return (
        f"{total:,} file{'s are' if total > 1 else ' is'} left out, whose suffix is not an image's"
        f" ({', '.join(parts[:MAX_SUFFIXES])}{more}){hint}"
    )


def is_archive(path: Path) -> bool:
    """Return whether `open_tree` opens this file as an archive."""
    return is_file(path) and path.suffix.lower() in (".zip", ".tar")


def _zip_files(path: Path) -> dict[str, _Content]:
    archive = zipfile.ZipFile(path)  # garbage collection closes it, after the last reader

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


def _hash(entries) -> str:
    return hashlib.sha256(repr(sorted(entries)).encode()).hexdigest()[:16]
