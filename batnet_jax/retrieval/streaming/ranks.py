"""Ranks of the relevant gallery items of each query: the part that runs on the accelerator.

The ranks are exact, although neither the distance matrix nor a sorted gallery is ever stored. The
package's docstring explains the terms.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array

from batnet_jax.retrieval.image_set import ImageSet, Labels
from batnet_jax.retrieval.mapped_rows import view_rows
from batnet_jax.retrieval.matches import ItemLists, MatchKeys, match_keys
from batnet_jax.retrieval.metrics import Ranks
from batnet_jax.retrieval.streaming import count_methods
from batnet_jax.retrieval.streaming.chunk_cache import ChunkCache
from batnet_jax.retrieval.streaming.chunks import Chunk, ChunkLoader
from batnet_jax.retrieval.streaming.device_map import split
from batnet_jax.retrieval.streaming.hidden_items import HiddenItems
from batnet_jax.retrieval.streaming.kept_counts import KeptCounts
from batnet_jax.retrieval.streaming.prepare_features import (
    ChunkPreparer,
    FeatureSource,
    make_queries,
)
from batnet_jax.retrieval.streaming.query_blocks import (
    BlockGroup,
    DeviceGroup,
    GroupLoader,
    Page,
    collect_ranks,
    group_blocks,
)
from batnet_jax.retrieval.streaming.tiling import Plan, make_plan

Progress = Callable[[int, int], None]

# Queries in a block and gallery items in a chunk. On a CPU a tile has 16 MiB.
_TILE_SIZES = {"cpu": (512, 8192)}
_DEFAULT_TILE_SIZE = (1024, 32768)
_MAX_KEPT_TILES = 4  # tiles kept for blocks that have another home chunk to meet
_MAX_QUEUED_CHUNKS = 4  # chunks whose work accelerators have in their queues


def relevant_ranks(
    query: ImageSet,
    gallery: Labels,
    source: FeatureSource,
    *,
    same_camera: str,
    metric: str,
    left_out: ItemLists | None = None,
    dtype: str = "float32",
    block: int | None = None,
    chunk: int | None = None,
    progress: Progress | None = None,
    counts: KeptCounts | None = None,
) -> Ranks:
    """Return the 1-based ranks of each query's relevant items, among the items that are kept.

    Args:
      query: q images.
      gallery: the labels of g images, none of them junk.
      source: of the gallery's features. It is called with about `chunk` ascending indices at a
        time, while the devices count the chunks before. Each item is requested once, or again if
        its chunk has to wait and does not fit into the devices' chunk cache.
      same_camera: "remove" leaves out items of the query's identity and camera, if cameras are
        known; "keep" leaves nothing out.
      metric: "cosine" or "euclidean".
      left_out: further items that each query's ranking leaves out; None for none.
      dtype: "float32", or "bfloat16" for features rounded to it.
      block: queries at a time on a device; None chooses.
      chunk: gallery items at a time; None chooses.
      progress: called as progress(gallery items seen, g) after each chunk.
      counts: the file that keeps the counts, so that an interrupted evaluation can continue; None
        for no file.
    """
    features = view_rows(query.features, slice(None))
    queries = make_queries(features, metric, dtype)  # the device works while the host plans
    plan = plan_tiles(
        query.labels, gallery, left_out, same_camera=same_camera, block=block, chunk=chunk
    )
    is_matched = np.zeros(len(gallery), bool)
    is_matched[plan.relevant.items] = is_matched[plan.removed.items] = True
    matched_index = np.cumsum(is_matched) - 1
    preparer = ChunkPreparer(plan.chunk_length, features.shape[1], metric, dtype)
    chunks = ChunkLoader(source, plan, np.flatnonzero(is_matched), preparer)
    step_shape = count_methods.step_shape(plan.block_rows)
    counting = _Counting(plan, GroupLoader(plan, matched_index, queries, step_shape), chunks)
    start, arrays = (0, []) if counts is None else counts.read(len(plan.chunks))
    if start:
        counting.go_on(start, arrays)
    seen = sum(map(len, plan.chunks[:start]))
    if start and progress is not None:
        progress(seen, len(gallery))
    for number in counting.run(start):
        seen += len(plan.chunks[number])
        if counts is not None and counts.is_due():
            counts.write(number + 1, counting.counts_before(number + 1))
        if progress is not None:
            progress(seen, len(gallery))
    ranks = _sort_ranks(plan.relevant, counting.pages())
    if counts is not None:
        counts.remove()
    return ranks


def plan_tiles(
    query: Labels,
    gallery: Labels,
    left_out: ItemLists | None = None,
    *,
    same_camera: str,
    block: int | None,
    chunk: int | None,
) -> Plan:
    """Return the plan for this machine's devices; see `relevant_ranks`."""
    query_keys, gallery_keys = match_keys(query, gallery, same_camera)
    query_pids, gallery_pids = _renumber(query_keys.pids, gallery_keys.pids)
    query_views, gallery_views = _renumber(query_keys.views, gallery_keys.views)
    default_block, default_chunk = _TILE_SIZES.get(jax.default_backend(), _DEFAULT_TILE_SIZE)
    return make_plan(
        MatchKeys(query_pids, query_views),
        MatchKeys(gallery_pids, gallery_views),
        left_out,
        block=block or min(default_block, -(-len(query) // jax.device_count())),
        chunk=chunk or default_chunk,
    )


def _renumber(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map ids to int32 numbers from 0 on, in the same order."""
    both = np.concatenate([query, gallery])
    low = both.min()
    if int(both.max()) - int(low) < 2**31:
        numbers = both - low
    else:
        numbers = np.unique(both, return_inverse=True)[1]
    numbers = numbers.astype(np.int32)
    return numbers[: len(query)], numbers[len(query) :]


class _Tile(NamedTuple):
    """A group's scores against a chunk, with what counting needs of the chunk."""

    scores: Array  # [devices, b, n]
    columns: Array
    num_items: Array


class _Counting:
    """The meetings of all groups of query blocks with all chunks.

    A group meets its home chunks first and is loaded onto the devices with the first of them. After
    its last home chunk it has all thresholds, and meets each further chunk as it arrives, then the
    chunks in the cache. Chunks that did not fit into the cache are loaded again at the end.
    """

    def __init__(
        self, plan: Plan, load_group: Callable[[BlockGroup], DeviceGroup], chunks: ChunkLoader
    ):
        self._num_chunks = len(plan.chunks)
        self._load_group = load_group
        self._chunks = chunks
        self._groups = group_blocks(plan)
        self._hidden = HiddenItems(plan, self._groups)
        self._last_home = [int(group.home.max()) for group in self._groups]
        # The chunks that each group has yet to meet; none if its blocks are all empty.
        self._pending = [
            set(range(self._num_chunks)) if last >= 0 else set() for last in self._last_home
        ]
        self._loaded: dict[int, DeviceGroup] = {}
        self._kept_tiles: dict[int, dict[int, _Tile]] = {}  # by group, then by home chunk
        self._cache = ChunkCache()

    def run(self, start: int = 0) -> Iterator[int]:
        """Count the chunks from `start` on; yield each number when its work has been queued."""
        for number in range(start, self._num_chunks):
            chunk = self._chunks.load(number)
            self._limit_queue(number)
            for k, group in enumerate(self._groups):
                if (group.home == number).any():
                    self._meet_home(k, number, chunk)
            ready = [k for k, last in enumerate(self._last_home) if last <= number]
            self._meet(self._pending_groups(number, ready), number, chunk)
            for other in self._cache.numbers():
                due = self._pending_groups(other, ready)
                if due:
                    self._meet(due, other, self._cache.get(other))
            self._update_cache(number, chunk)
            yield number
        for number in sorted(set().union(*self._pending)):
            due = self._pending_groups(number, self._loaded)
            self._meet(due, number, self._chunks.load(number))

    def pages(self) -> list[Page]:
        """Return the pages of all groups."""
        return [page for k in sorted(self._loaded) for page in self._loaded[k].relevant]

    def counts_before(self, number: int) -> list[np.ndarray] | None:
        """Return the thresholds, and the counts of the chunks before `number`, page by page.

        None if a group has yet to meet one of these chunks.
        """
        if any(min(pending, default=number) < number for pending in self._pending):
            return None
        return [
            np.asarray(array) for page in self.pages() for array in (page.thresholds, page.counts)
        ]

    def go_on(self, number: int, arrays: Sequence[np.ndarray]) -> None:
        """Set the result of an earlier `counts_before`; `run` then starts from chunk `number`."""
        given = iter(arrays)
        for k, group in enumerate(self._groups):
            if not self._pending[k]:
                continue
            loaded = self._load_group(group)
            pages = [
                page._replace(thresholds=split(next(given)), counts=split(next(given)))
                for page in loaded.relevant
            ]
            self._loaded[k] = loaded._replace(relevant=pages)
            self._pending[k] = set(range(number, self._num_chunks))

    def _limit_queue(self, number: int) -> None:
        """Wait for the devices, so that few chunks are in memory at once.

        A gallery on a device takes no memory for further chunks, so the host waits less often.
        """
        if not self._chunks.gallery_on_device or number % _MAX_QUEUED_CHUNKS == 0:
            jax.block_until_ready([page.counts for page in self.pages()])

    def _meet_home(self, k: int, number: int, chunk: Chunk) -> None:
        """Read the thresholds of the queries at home in a chunk; count for those that have theirs.

        The other queries of the group need the tile later, after their own home chunks. The tile is
        kept for them if few tiles are kept; otherwise the group meets the chunk again.
        """
        group = self._loaded.get(k) or self._load_group(self._groups[k])
        at_home = group.home == number
        tile = self._make_tile(k, group, number, chunk)
        relevant = []
        for page in group.relevant:
            thresholds = count_methods.read_thresholds(tile.scores, page, chunk.columns, at_home)
            relevant.append(page._replace(thresholds=thresholds))
        for items in group.removed:
            scores = count_methods.hide_removed(tile.scores, items, chunk.columns, at_home)
            tile = tile._replace(scores=scores)
        group = _count(group._replace(relevant=relevant), tile, group.home <= number)
        if self._last_home[k] == number:
            self._pending[k].discard(number)
            for earlier, kept_tile in self._kept_tiles.pop(k, {}).items():
                group = _count(group, kept_tile, group.home > earlier)
        elif sum(map(len, self._kept_tiles.values())) < _MAX_KEPT_TILES:
            self._pending[k].discard(number)
            self._kept_tiles.setdefault(k, {})[number] = tile
        self._loaded[k] = group

    def _pending_groups(self, number: int, groups: Iterable[int]) -> list[int]:
        """Return the groups, of the given ones, that have yet to meet a chunk."""
        return [k for k in groups if number in self._pending[k]]

    def _meet(self, groups: Iterable[int], number: int, chunk: Chunk) -> None:
        """Count a chunk for groups that have all thresholds."""
        for k in groups:
            home = self._loaded[k].home
            # If this is a home chunk of the group, `_meet_home` has counted for the other queries.
            active = (home > number) | ~(home == number).any()
            tile = self._make_tile(k, self._loaded[k], number, chunk)
            self._loaded[k] = _count(self._loaded[k], tile, active)
            self._pending[k].discard(number)

    def _make_tile(self, k: int, group: DeviceGroup, number: int, chunk: Chunk) -> _Tile:
        """Compute the scores of a group against a chunk, without the hidden items'."""
        scores = count_methods.tile_scores(group.queries, chunk.features, chunk.offset)
        return _Tile(self._hidden.hide(scores, k, number), chunk.columns, chunk.num_items)

    def _update_cache(self, number: int, chunk: Chunk) -> None:
        """Keep the chunks that some group has yet to meet, including the new one if it fits."""
        needed = set().union(*self._pending)
        self._cache.keep_only(needed)
        if number in needed:
            self._cache.put(number, chunk)


def _count(group: DeviceGroup, tile: _Tile, active: np.ndarray) -> DeviceGroup:
    """Count a tile for the active queries."""
    relevant = []
    for page in group.relevant:
        counts = count_methods.count_ahead(tile.scores, page, tile.columns, tile.num_items, active)
        relevant.append(page._replace(counts=counts))
    if jax.default_backend() == "cpu":  # two tiles at a time would compete for its cache
        jax.block_until_ready([page.counts for page in relevant])
    return group._replace(relevant=relevant)


def _sort_ranks(lists: ItemLists, pages: list[Page]) -> Ranks:
    """Collect the counts of all devices and hosts, and sort each query's ranks."""
    ranks = collect_ranks(lists, pages)
    if jax.process_count() > 1:
        ranks = np.asarray(multihost_utils.process_allgather(ranks)).sum(0)
    query = np.repeat(np.arange(len(lists.counts)), lists.counts)
    both = np.sort(query << 32 | ranks.astype(np.int64))  # sorting pairs would be far slower
    return Ranks(both & (2**32 - 1), lists.offsets)
