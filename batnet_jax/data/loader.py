"""From encoded images to uint8 batches on the host: decode, resize, keep, prefetch."""

import queue
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import cv2
import numpy as np

from batnet_jax.errors import UserError


class EncodedImages(Protocol):
    """What an `ImageStore` reads: `batnet_jax.data.Split`, or anything alike."""

    @property
    def filenames(self) -> list[str]:
        """The images' names, for messages."""
        ...

    def __len__(self) -> int: ...

    def encoded(self, i: int, /) -> bytes:
        """The bytes of image i's file; called from several threads."""
        ...


def decode(encoded: bytes, image_size: tuple[int, int], name: str = "image") -> np.ndarray:
    """Decodes an image file and resizes it bilinearly.

    Args:
      encoded: the bytes of a file of any format that OpenCV reads.
      image_size: (height, width) in pixels.
      name: of the file, for the message.

    Returns: [height, width, 3] uint8, RGB; grey is repeated, transparency dropped.

    Raises: UserError if the bytes are not an image.
    """
    data = np.frombuffer(encoded, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise UserError(f"'{name}' cannot be decoded as an image: replace or remove it")
    height, width = image_size
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class ImageStore:
    """Random access to the decoded images of a split.

    If all of them fit into `cache_gb`, each is decoded once and kept as uint8; else each is decoded
    whenever it is asked for. Any number of threads may ask at once.
    """

    def __init__(
        self,
        split: EncodedImages,
        *,
        image_size: tuple[int, int],
        cache_gb: float = 4.0,
        workers: int = 2,
    ):
        """Decodes nothing yet.

        Args:
          split: the n encoded images.
          image_size: (height, width) in pixels.
          cache_gb: limit of the cache in 10^9 bytes; 0 = no cache.
          workers: decoding threads.
        """
        self._split = split
        self._image_size = (int(image_size[0]), int(image_size[1]))
        nbytes = len(split) * self._image_size[0] * self._image_size[1] * 3
        self._keep = nbytes <= cache_gb * 1e9
        self._images: list[np.ndarray | None] = [None] * len(split)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def __len__(self) -> int:
        return len(self._split)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices` ([b] int), as [b, height, width, 3] uint8, RGB.

        Raises: UserError if one of them does not decode, naming it.
        """
        order = np.asarray(indices).tolist()
        if not order:
            return np.empty((0, *self._image_size, 3), np.uint8)
        images = {i: self._images[i] for i in order}
        # Two threads may decode one image at once; either's copy will do.
        missing = [i for i, image in images.items() if image is None]
        images.update(zip(missing, self._pool.map(self._load, missing), strict=True))
        return np.stack([images[i] for i in order])  # type: ignore

    def close(self) -> None:
        """Ends the decoding threads; the store is of no use afterwards."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> "ImageStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self, i: int) -> np.ndarray:
        image = decode(self._split.encoded(i), self._image_size, self._split.filenames[i])
        if self._keep:
            self._images[i] = image
        return image


class Prefetcher(Iterator[tuple[np.ndarray, np.ndarray]]):
    """Iterates over (indices [b], images [b, h, w, 3] uint8), loading ahead in a thread.

    An exception while loading surfaces at the batch that it concerns. Leaving early: `close()`, a
    `with` block, or simply dropping the object.
    """

    wait_seconds: float
    """How long the consumer has waited for data so far."""

    def __init__(self, store: ImageStore, plan: Iterable[np.ndarray], depth: int = 2):
        """Starts loading.

        Args:
          store: the images.
          plan: [b] int index rows, one a batch; consumed in the thread.
          depth: batches kept ready.
        """
        self.wait_seconds = 0.0
        self._queue: queue.Queue = queue.Queue(max(depth, 1))
        self._stop = threading.Event()
        # The thread must not hold `self`, or dropping it would not end the thread.
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
        item = self._queue.get()
        self.wait_seconds += time.perf_counter() - start
        if isinstance(item, tuple):
            return item
        self.close()
        raise item

    def close(self) -> None:
        """Stops loading and waits for the thread to end; more batches will not come."""
        self._release()
        self._thread.join()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prefetch(store: ImageStore, plan: Iterable[np.ndarray], depth: int = 2) -> Prefetcher:
    """Loads the batches of `plan` ahead of their use, `depth` of them; see `Prefetcher`."""
    return Prefetcher(store, plan, depth)


def _load(
    store: ImageStore, plan: Iterable[np.ndarray], out: queue.Queue, stop: threading.Event
) -> None:
    """Puts (indices, images) for each row of the plan, then the exception that ends it."""
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
    """Makes `_load` end: after `stop` it puts at most one more item, and there is room for it."""
    stop.set()
    while True:
        try:
            out.get_nowait()
        except queue.Empty:
            return
