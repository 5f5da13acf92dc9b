"""Gallery chunks on the devices, with everything that counting needs to know about them."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Array

from batnet_jax.retrieval.streaming.device_map import replicate
from batnet_jax.retrieval.streaming.prepare_features import (
    ChunkPreparer,
    FeatureSource,
    FileSource,
)
from batnet_jax.retrieval.streaming.tiling import Plan


class Chunk(NamedTuple):
    """A chunk of the gallery, on every device."""

    features: Array  # [d, n]
    offset: Array | None  # [n] added to the scores
    columns: Array  # [w] for each matched item the number of the chunk's items of lower index
    num_items: Array  # [] how many of the n are items; the others are padding


class ChunkLoader:
    """Loads the chunks of a plan, one at a time; of a file, the next one while devices count."""

    def __init__(
        self, source: FeatureSource, plan: Plan, matched: np.ndarray, preparer: ChunkPreparer
    ):
        """Prepare.

        Args:
          source: of the gallery's features.
          plan: see `make_plan`.
          matched: [w] the gallery indices of the matched items, ascending.
          preparer: for chunks of the plan's length.
        """
        self._source = source
        self._plan = plan
        self._matched = matched
        self._preparer = preparer
        self._pool = ThreadPoolExecutor(1, "chunks") if isinstance(source, FileSource) else None
        self._ahead: tuple[int, Future[Chunk]] | None = None

    @property
    def gallery_on_device(self) -> bool:
        """Whether the last chunk came from a gallery that is on a device as a whole."""
        return self._preparer.gallery_on_device

    def load(self, number: int) -> Chunk:
        """Request the features of a chunk from the source, and put the chunk on the devices."""
        if self._pool is None:
            return self._load(number)
        if self._ahead is None or self._ahead[0] != number:
            self._ahead = number, self._pool.submit(self._load, number)  # after the one in work
        chunk = self._ahead[1].result()
        self._ahead = None
        if number + 1 < len(self._plan.chunks):
            self._ahead = number + 1, self._pool.submit(self._load, number + 1)
        return chunk

    def _load(self, number: int) -> Chunk:
        items = self._plan.chunks[number]
        features, offset = self._preparer(self._source(items))
        # Padded to a power of two, because every length is compiled separately.
        columns = np.zeros(1 << len(self._matched).bit_length(), np.int32)
        columns[: len(self._matched)] = np.searchsorted(items, self._matched)
        return Chunk(*replicate((features, offset, columns, np.int32(len(items)))))
