"""Where decoded images are kept: in memory, or in a file that later runs read too."""

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

from batnet_jax.runtime.atomic_write import atomic_path

FREE_BYTES = 10**9
"""Bytes of the disk that a cache leaves free, for checkpoints."""


class Cache(Protocol):
    """Room for n images; any number of threads may use it at once."""

    def read(self, i: int, out: np.ndarray, /) -> bool:
        """Copies image i into `out`; False, and anything in `out`, if it is not there."""
        ...

    def write(self, i: int, image: np.ndarray, /) -> None:
        """Keeps image i, [height, width, 3] uint8, if it can."""
        ...

    def close(self) -> None:
        """The cache is of no use afterwards."""
        ...


def open_cache(
    n: int,
    image_size: tuple[int, int],
    *,
    cache_gb: float,
    disk_cache: Path | None,
    disk_cache_gb: float,
) -> Cache:
    """The fastest cache that has room for all images; one line on stderr if the disk fails it.

    Args:
      n: number of images.
      image_size: (height, width) in pixels.
      cache_gb: limit of a cache in memory, in 10^9 bytes.
      disk_cache: folder for a cache on disk, of these n images alone; None = none.
      disk_cache_gb: limit of a cache on disk, in 10^9 bytes.
    """
    nbytes = n * image_size[0] * image_size[1] * 3
    if nbytes <= cache_gb * 1e9:
        return MemoryCache(n, image_size)
    if disk_cache is not None and nbytes <= disk_cache_gb * 1e9:
        try:
            return DiskCache(disk_cache, n, image_size)
        except OSError as error:
            print(
                f"no cache in '{disk_cache}' ({error.strerror}): images are decoded anew each time",
                file=sys.stderr,
            )
    return NoCache()


class NoCache:
    """Keeps nothing; see `Cache`."""

    def read(self, i: int, out: np.ndarray) -> bool:
        """See `Cache`."""
        del i, out
        return False

    def write(self, i: int, image: np.ndarray) -> None:
        """See `Cache`."""

    def close(self) -> None:
        """See `Cache`."""


class MemoryCache:
    """Keeps all images in one array, whose memory is taken as they come; see `Cache`."""

    def __init__(self, n: int, image_size: tuple[int, int]):
        """Takes hardly any memory yet."""
        self._images = np.empty((n, *image_size, 3), np.uint8)
        self._there = np.zeros(n, bool)

    def read(self, i: int, out: np.ndarray) -> bool:
        """See `Cache`."""
        if not self._there[i]:
            return False
        np.copyto(out, self._images[i])
        return True

    def write(self, i: int, image: np.ndarray) -> None:
        """See `Cache`; two threads may write one image at once, for they write the same bytes."""
        np.copyto(self._images[i], image)
        self._there[i] = True

    def close(self) -> None:
        """See `Cache`."""


class DiskCache:
    """Keeps all images in one file, for later runs and for others at the same time; see `Cache`.

    The file holds n checksums of 4 bytes, then n images; 0 = not there. An image's checksum is
    compared when a process first reads it: a run that is killed, a machine that crashes, or two
    processes that write at once cost no more than decoding again. Reads and writes are calls
    instead of a memory map, for a failing or full disk is an exception then, and no signal.
    """

    def __init__(self, folder: Path, n: int, image_size: tuple[int, int]):
        """Opens the file, making it if need be.

        Args:
          folder: of these n images alone, made if need be; the file's name tells sizes apart.
          n: number of images.
          image_size: (height, width) in pixels.

        Raises: OSError if the file cannot be written, or the disk has no room for all images.
        """
        height, width = image_size
        # The build decides with which library JPEG files are read, and so about the last bit.
        build = zlib.crc32(cv2.getBuildInformation().encode())
        self._path = folder / f"{height}x{width}_opencv{cv2.__version__}_{build:08x}.images"
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
        """See `Cache`; says once if the disk is full, and writes no more."""
        if not self._writable:
            return
        try:
            _write(self._file.fileno(), image.data, self._start + i * self._image_bytes)
            _write(self._file.fileno(), _checksum(image), 4 * i)
            self._checked[i] = True
        except OSError as error:
            self._writable = False
            print(
                f"cannot write to '{self._path}' ({error.strerror}): "
                "images that are not in it are decoded anew each time",
                file=sys.stderr,
            )

    def close(self) -> None:
        """See `Cache`."""
        self._file.close()


def _open_file(path: Path, nbytes: int) -> FileIO:
    """Opens a file of `nbytes`; one that is missing or of another length is made, empty.

    Raises: OSError if it cannot be written, or if the disk has no room to fill it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        whole = path.exists() and path.stat().st_size == nbytes
        need = nbytes - (path.stat().st_blocks * 512 if whole else 0)
        free = shutil.disk_usage(path.parent).free
        if free < need + FREE_BYTES:
            gb = f"{(need + FREE_BYTES) / 1e9:.1f} GB to be free, {free / 1e9:.1f} GB are"
            raise OSError(errno.ENOSPC, f"it wants {gb}")
        if not whole:
            # A new file in its place: another process may still use the old one.
            with atomic_path(path) as fresh, fresh.open("wb") as file:
                file.truncate(nbytes)
        return path.open("r+b", buffering=0)


def _checksum(image: np.ndarray) -> bytes:
    """4 bytes that are not all 0."""
    return (zlib.crc32(image.data) or 1).to_bytes(4, "little")


def _write(file: int, data: memoryview | bytes, offset: int) -> None:
    """Writes all of `data`; a disk that fills up writes a part first, and fails the next time."""
    left = memoryview(data).cast("B")
    while left:
        count = os.pwrite(file, left, offset)
        left, offset = left[count:], offset + count
