"""Caches of decoded images: in memory, or in a file that later runs share."""

import errno
import fcntl
import os
import shutil
import sys
import zlib
from io import FileIO
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from batnet_jax.data.files.pixels import DROP
from batnet_jax.errors import printable
from batnet_jax.runtime.atomic_write import atomic_path, open_lock
from batnet_jax.runtime.paths import is_file

FREE_BYTES = 10**9
"""Disk space that a cache leaves free for checkpoints."""


class Cache(Protocol):
    """A cache of n images; safe to use from several threads."""

    def read(self, i: int, out: np.ndarray, /) -> bool:
        """Copy image i into `out`; return False, with `out` undefined, if it was not stored."""
        ...

    def write(self, i: int, image: np.ndarray, /) -> None:
        """Store image i, [height, width, 3] uint8, if possible."""
        ...

    def close(self) -> None:
        """Release the cache's resources."""
        ...


def open_cache(
    n: int,
    image_size: tuple[int, int],
    *,
    cache_gb: float,
    disk_cache: Path | None,
    disk_cache_gb: float,
    alpha: str,
) -> Cache:
    """Open the fastest cache with room for all images; print a line to stderr if the disk fails.

    Args:
      n: number of images.
      image_size: (height, width) in pixels.
      cache_gb: limit of a cache in memory, in 10^9 bytes.
      disk_cache: folder of a cache on disk, used only for these n images; None = none.
      disk_cache_gb: limit of a cache on disk, in 10^9 bytes.
      alpha: the treatment of transparent pixels, one of `pixels.ALPHA`.
    """
    nbytes = n * image_size[0] * image_size[1] * 3
    if nbytes <= cache_gb * 1e9:
        return MemoryCache(n, image_size)
    if disk_cache is not None and nbytes <= disk_cache_gb * 1e9:
        try:
            return DiskCache(disk_cache, n, image_size, alpha)
        except OSError as error:
            why = f"no cache in '{disk_cache}' ({error.strerror})"
            print(printable(f"{why}: images are decoded again each time"), file=sys.stderr)
    return NoCache()


class NoCache:
    """A cache that stores nothing; see `Cache`."""

    def read(self, i: int, out: np.ndarray) -> bool:
        """See `Cache`."""
        del i, out
        return False

    def write(self, i: int, image: np.ndarray) -> None:
        """See `Cache`."""

    def close(self) -> None:
        """See `Cache`."""


class MemoryCache:
    """A cache of all images in one array; see `Cache`."""

    def __init__(self, n: int, image_size: tuple[int, int]):
        """Reserve address space; the system allocates memory when an image is written."""
        self._images = np.empty((n, *image_size, 3), np.uint8)
        self._cached = np.zeros(n, bool)

    def read(self, i: int, out: np.ndarray) -> bool:
        """See `Cache`."""
        if not self._cached[i]:
            return False
        np.copyto(out, self._images[i])
        return True

    def write(self, i: int, image: np.ndarray) -> None:
        """See `Cache`; two threads may write one image, because they write the same bytes."""
        np.copyto(self._images[i], image)
        self._cached[i] = True

    def close(self) -> None:
        """See `Cache`."""


class DiskCache:
    """A cache of all images in one file, shared by concurrent and later runs; see `Cache`.

    The file holds n checksums of 4 bytes (0 = not cached), then n images. A process compares an
    image's checksum when it first reads the image, so killed runs, crashes and concurrent writes
    only cost another decoding. The file is not memory-mapped: a full or failing disk then raises an
    exception instead of a signal.
    """

    def __init__(self, folder: Path, n: int, image_size: tuple[int, int], alpha: str):
        """Open the file; create it first if necessary.

        Args:
          folder: used only for these n images, created if necessary. Each image size has its file.
          n: number of images.
          image_size: (height, width) in pixels.
          alpha: the treatment of transparent pixels, one of `pixels.ALPHA`; each has its file.

        Raises: OSError if the file cannot be written, or the disk has no room for all images.
        """
        height, width = image_size
        # The build determines the JPEG library, whose results differ in the last bit.
        build = zlib.crc32(cv2.getBuildInformation().encode())
        kind = "" if alpha == DROP else f"_{alpha}"  # files older than the setting have no name
        name = f"{height}x{width}_opencv{cv2.__version__}_{build:08x}{kind}.images"
        self._path = folder / name
        self._image_bytes = height * width * 3
        self._start = 4 * n
        self._file = _open_file(self._path, self._start + n * self._image_bytes)
        self._checked = np.zeros(n, bool)
        self._writable = True

    def read(self, i: int, out: np.ndarray) -> bool:
        """See `Cache`."""
        file = self._file.fileno()
        try:
            checksum = None if self._checked[i] else os.pread(file, 4, 4 * i)
            if checksum == bytes(4):
                return False
            count = os.preadv(file, [out.data], self._start + i * self._image_bytes)
        except OSError:
            return False
        if count < self._image_bytes or (checksum and checksum != _checksum(out)):
            return False
        self._checked[i] = True
        return True

    def write(self, i: int, image: np.ndarray) -> None:
        """See `Cache`; after a failure, print a line to stderr and stop writing."""
        if not self._writable:
            return
        try:
            _write(self._file.fileno(), image.data, self._start + i * self._image_bytes)
            _write(self._file.fileno(), _checksum(image), 4 * i)
            self._checked[i] = True
        except OSError as error:
            self._writable = False
            line = (
                f"cannot write to '{self._path}' ({error.strerror}): "
                "images that are not in it are decoded again each time"
            )
            print(printable(line), file=sys.stderr)

    def close(self) -> None:
        """See `Cache`."""
        self._file.close()


def _open_file(path: Path, nbytes: int) -> FileIO:
    """Open a file of `nbytes`; create an empty file if none of this length exists.

    Raises: OSError if it cannot be written, or if the disk has no room for `nbytes`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_lock(path.parent / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # A link is replaced: the file that it names may be anybody's.
        whole = is_file(path) and not path.is_symlink() and path.stat().st_size == nbytes
        need = nbytes - (path.stat().st_blocks * 512 if whole else 0)
        free = shutil.disk_usage(path.parent).free
        if free < need + FREE_BYTES:
            gb = f"{(need + FREE_BYTES) / 1e9:.1f} GB to be free, {free / 1e9:.1f} GB are"
            raise OSError(errno.ENOSPC, f"it wants {gb}")
        if not whole:
            # Replace the file: another process may still use the old one.
            with atomic_path(path) as fresh, fresh.open("wb") as file:
                file.truncate(nbytes)
        return path.open("r+b", buffering=0)


def _checksum(image: np.ndarray) -> bytes:
    """Return a checksum of 4 bytes, never all 0."""
    return (zlib.crc32(image.data) or 1).to_bytes(4, "little")


def _write(file: int, data: memoryview | bytes, offset: int) -> None:
    """Write all of `data`; on a disk that fills up, one write is partial and the next fails."""
    left = memoryview(data).cast("B")
    while left:
        count = os.pwrite(file, left, offset)
        left, offset = left[count:], offset + count
