"""Turns image files into uint8 batches on the host: decodes, resizes, caches, prefetches."""

import functools
import queue
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from batnet_jax.data.files.pixels import WHITE, Picture, describe_transparent, read_picture
from batnet_jax.data.loading.cache import open_cache
from batnet_jax.errors import RunFailure, UserError, one_line

QUEUE_TIMEOUT = 5.0
"""Seconds after which a consumer checks whether the loading thread is alive."""

_CHECKED_AT_ONCE = 1024


class EncodedImages(Protocol):
    """A source of images for an `ImageStore`, such as `batnet_jax.data.Split`."""

    @property
    def filenames(self) -> Sequence[str]:
        """The names of the images, for messages."""
        ...

    def __len__(self) -> int: ...

    def encoded(self, i: int, /) -> bytes:
        """Return the bytes of image i's file; called from several threads."""
        ...


def decode(
    encoded: bytes,
    image_size: tuple[int, int],
    name: str = "image",
    out: np.ndarray | None = None,
    alpha: str = WHITE,
) -> np.ndarray:
    """Decode an image file and resize it bilinearly.

    Args:
      encoded: the bytes of a file in one of `image_headers.FORMATS`.
      image_size: (height, width) in pixels.
      name: the filename, for the message.
      out: a contiguous array for the result; None = a new array.
      alpha: the treatment of transparent pixels, one of `pixels.ALPHA`.

    Returns: [height, width, 3] uint8, RGB, upright as the file's Exif data say; grey is repeated.

    Raises: UserError if the bytes are not an image or have too many pixels.
    """
    if out is None:
        out = np.empty((*image_size, 3), np.uint8)
    decode_into(encoded, out, name, alpha)
    return out


def decode_into(encoded: bytes, out: np.ndarray, name: str, alpha: str) -> bool:
    """Decode an image file into an array, as `decode` does; return whether it is transparent."""
    picture = _decode(encoded, name, alpha)
    resize_into(picture.pixels, out)
    return picture.transparent


def _decode(encoded: bytes, name: str, alpha: str) -> Picture:
    try:
        return read_picture(encoded, alpha)
    except UserError as error:
        raise UserError(
            f"'{name}' cannot be decoded as an image ({error}): replace or remove it"
        ) from error


def resize_into(image: np.ndarray, out: np.ndarray) -> None:
    """Resize an image bilinearly to the size of `out`; both [height, width, 3] uint8."""
    if image.shape == out.shape:
        np.copyto(out, image)
    else:
        size = (out.shape[1], out.shape[0])
        cv2.resize(image, size, dst=out, interpolation=cv2.INTER_LINEAR)


@functools.lru_cache(maxsize=64)
def _say_once(line: str) -> None:
    """Print a line to stderr, unless it is among the lines printed last."""
    print(line, file=sys.stderr)


def say_transparent(number: int, total: int, alpha: str) -> None:
    """Print to stderr how many images are transparent; print nothing for none, or twice."""
    if number:
        _say_once(f"note: {describe_transparent(number, total, alpha)}")


class ImageStore:
    """Random access to the decoded images of a split, from several threads.

    If all images fit into `cache_gb`, each is decoded once and kept in memory. Otherwise, if they
    fit into `disk_cache_gb`, each is decoded once for all runs and kept on the disk. Otherwise each
    is decoded on every access.
    """

    def __init__(
        self,
        split: EncodedImages,
        *,
        image_size: tuple[int, int],
        cache_gb: float = 4.0,
        workers: int = 2,
        disk_cache: Path | None = None,
        disk_cache_gb: float = 0.0,
        alpha: str = WHITE,
    ):
        """Open the cache without decoding; print a line to stderr if the disk fails.

        Args:
          split: the n encoded images.
          image_size: (height, width) in pixels.
          cache_gb: limit of the cache in memory, in 10^9 bytes; 0 = none.
          workers: number of decoding threads.
          disk_cache: folder of the cache on disk, used only for this split; None = none.
          disk_cache_gb: limit of the cache on disk, in 10^9 bytes; 0 = none.
          alpha: the treatment of transparent pixels, one of `pixels.ALPHA`.
        """
        self._split = split
        self._alpha = alpha
        self._transparent = np.zeros(len(split), bool)
        self._image_size = (int(image_size[0]), int(image_size[1]))
        self._cache = open_cache(
            len(split),
            self._image_size,
            cache_gb=cache_gb,
            disk_cache=disk_cache,
            disk_cache_gb=disk_cache_gb,
            alpha=alpha,
        )
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def __len__(self) -> int:
        return len(self._split)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Return the images at `indices` ([b] int) as [b, height, width, 3] uint8, RGB.

        Raises: UserError if an image cannot be decoded, RunFailure if its file cannot be read.
        """
        indices = np.asarray(indices)
        images = np.empty((len(indices), *self._image_size, 3), np.uint8)
        _, first, which = np.unique(indices, return_index=True, return_inverse=True)
        order, rows = indices.tolist(), iter(first.tolist())

        def load() -> None:
            # All threads share one iterator; a free thread takes the next image.
            for row in rows:
                self._load(order[row], images[row])

        threads = min(self._workers, len(first))
        for future in [self._pool.submit(load) for _ in range(threads)]:
            future.result()
        if len(first) < len(order):
            images[:] = images[first[which]]
        return images

    def originals(self, indices: np.ndarray, box: tuple[int, int]) -> list[np.ndarray]:
        """Return the images at `indices` ([b] int) in their own shapes, for pictures.

        Args:
          indices: of the images.
          box: (height, width) in pixels, into which larger images are shrunk.

        Returns: [h, w, 3] uint8 each, RGB.
        Raises: see `batch`.
        """
        images = []
        for i in map(int, np.asarray(indices)):
            whole = _decode(self._encoded(i), self._split.filenames[i], self._alpha).pixels
            height, width, _ = whole.shape
            scale = min(1.0, box[0] / height, box[1] / width)
            shape = (max(1, round(scale * height)), max(1, round(scale * width)))
            images.append(np.empty((*shape, 3), np.uint8))
            resize_into(whole, images[-1])
        return images

    def errors(self) -> Iterator[UserError | None]:
        """Decode all images; yield the error of each image, None if it can be decoded."""

        def error_of(i: int) -> UserError | None:
            try:
                self._load(i, np.empty((*self._image_size, 3), np.uint8))
            except UserError as error:
                return error
            return None

        for start in range(0, len(self), _CHECKED_AT_ONCE):  # `map` would submit all images first
            yield from self._pool.map(
                error_of, range(start, min(start + _CHECKED_AT_ONCE, len(self)))
            )

    def close(self) -> None:
        """End the decoding threads and close the cache; say how many images were transparent.

        An image that an earlier run has left in the cache on disk is not counted.
        """
        self._pool.shutdown(cancel_futures=True)
        self._cache.close()
        say_transparent(int(self._transparent.sum()), len(self), self._alpha)

    def __enter__(self) -> "ImageStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self, i: int, out: np.ndarray) -> None:
        """Load image i into `out`; two threads may decode the same image."""
        if self._cache.read(i, out):
            return
        name = self._split.filenames[i]
        self._transparent[i] = decode_into(self._encoded(i), out, name, self._alpha)
        self._cache.write(i, out)

    def _encoded(self, i: int) -> bytes:
        """Return the bytes of image i's file.

        Raises: RunFailure if the file cannot be read.
        """
        try:
            return self._split.encoded(i)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # the reading library's error for a lost file has any type
            name = self._split.filenames[i]
            raise RunFailure(
                f"'{name}' cannot be read ({one_line(error)}): were the prepared files changed or "
                "removed? Restore them; the last checkpoint is kept"
            ) from error


class Prefetcher(Iterator[tuple[np.ndarray, np.ndarray]]):
    """Iterates over (indices [b], images [b, h, w, 3] uint8); a thread loads ahead.

    An error while loading is raised at its batch. To stop early, call `close`, leave the `with`
    block, or drop the object.
    """

    wait_seconds: float
    """Total time that the consumer has waited for data."""

    def __init__(self, store: ImageStore, plan: Iterable[np.ndarray], depth: int = 2):
        """Start loading.

        Args:
          store: the images.
          plan: the indices of each batch, [b] int; consumed in the thread.
          depth: number of batches kept ready.
        """
        self.wait_seconds = 0.0
        self._queue: queue.Queue = queue.Queue(max(depth, 1))
        self._stop = threading.Event()
        # Without a reference to `self` in the thread, dropping the object ends the thread.
        arguments = (store, plan, self._queue, self._stop)
        self._thread = threading.Thread(target=_load, args=arguments, daemon=True, name="prefetch")
        self._release = weakref.finalize(self, _release, self._queue, self._stop)
        self._thread.start()

    def __iter__(self) -> "Prefetcher":
        return self

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        if self._stop.is_set():
            raise StopIteration
        start = time.perf_counter()
        item = self._get()
        self.wait_seconds += time.perf_counter() - start
        if isinstance(item, tuple):
            return item
        self.close()
        raise item

    def _get(self) -> Any:
        """Return the next item; raise RunFailure if the thread has died silently."""
        while True:
            alive = self._thread.is_alive()
            try:
                return self._queue.get(timeout=QUEUE_TIMEOUT)
            except queue.Empty:
                if not alive:
                    raise RunFailure(
                        "the loading thread has died: the same command resumes from the last "
                        "checkpoint"
                    ) from None

    def close(self) -> None:
        """Stop loading and wait for the thread to end."""
        self._release()
        self._thread.join()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prefetch(store: ImageStore, plan: Iterable[np.ndarray], depth: int = 2) -> Prefetcher:
    """Load up to `depth` batches of `plan` ahead; see `Prefetcher`."""
    return Prefetcher(store, plan, depth)


def _load(
    store: ImageStore, plan: Iterable[np.ndarray], out: queue.Queue, stop: threading.Event
) -> None:
    """Put (indices, images) of each batch into the queue, then the exception that ends it."""
    try:
        for indices in plan:
            item = (indices, store.batch(indices))
            if stop.is_set():
                return
            out.put(item)
            del item
        out.put(StopIteration())
    except BaseException as error:
        out.put(error)


def _release(out: queue.Queue, stop: threading.Event) -> None:
    """End `_load`: empty the queue, so that it has room for the one item that may follow `stop`."""
    stop.set()
    while True:
        try:
            out.get_nowait()
        except queue.Empty:
            return
