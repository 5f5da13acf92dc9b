"""Ranks of the relevant gallery items of each query: the part that runs on the accelerator.

Exact and streaming: neither the distance matrix nor a sorted gallery ever exists. Queries are split
over the devices (and hosts), and every chunk of the gallery visits them all; chunks that have to
come again wait on the devices, dealt out over them, or are asked for once more where those are
full. `plan` says what meets what, `count` what a tile yields.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array

from batnet_jax.retrieval.image_set import ImageSet, Labels, camera_views
from batnet_jax.retrieval.mapped_rows import view_rows
from batnet_jax.retrieval.metrics import Ranks
from batnet_jax.retrieval.streaming import count
from batnet_jax.retrieval.streaming.chunk_cache import ChunkCache
from batnet_jax.retrieval.streaming.device_map import on_devices, replicate
from batnet_jax.retrieval.streaming.prepare_features import (
    ChunkPreparer,
    FeatureSource,
    make_queries,
)
from batnet_jax.retrieval.streaming.query_blocks import (
    Block,
    Group,
    Layout,
    Page,
    Steps,
    collect,
    deal,
)
from batnet_jax.retrieval.streaming.tiling import ROWS, Pairs, Plan, make_plan

Progress = Callable[[int, int], None]

# Queries in a block and gallery items in a chunk: 16 MiB of scores on a CPU.
_TILES = {"cpu": (512, 8192)}
_LARGE_TILES = (1024, 32768)
_KEPT_TILES = 4  # tiles that wait for their blocks' last homes
_AHEAD = 4  # chunks that accelerators have in their queues, at most


class _Chunk(NamedTuple):
    features: Array  # [d, n]
    offset: Array | None  # [n]
    columns: Array  # [w]
    filled: Array  # [] how many of the n are items


class _Tile(NamedTuple):
    """A block's scores against a chunk, and of the chunk what counting needs."""

    scores: Array  # [devices, b, n]
    columns: Array
    filled: Array


def relevant_ranks(
    query: ImageSet,
    gallery: Labels,
    source: FeatureSource,
    *,
    same_camera: str,
    metric: str,
    dtype: str = "float32",
    block: int | None = None,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> Ranks:
    """For every query the 1-based ranks of its relevant gallery items among the kept ones.

    Args:
      query: q images.
      gallery: the labels of g images, none of them junk.
      source: see `FeatureSource`. Called with about `chunk` ascending indices at a time, while the
        devices
        count those before; each item is asked for once, or more often where the chunks that must
        wait do not fit the devices.
      same_camera: "remove" leaves out items of the query's identity and camera, where cameras are
        known; "keep" leaves nothing out.
      metric: "cosine" or "euclidean", see `scores`.
      dtype: "float32", or "bfloat16" for features rounded to it.
      block: queries at a time on a device, None chooses.
      chunk: gallery items at a time, None chooses.
      progress: called as progress(gallery items seen, g) after each chunk.
    """
    features = view_rows(query.features, slice(None))
    queries = make_queries(features, metric, dtype)  # a device works on it while this plans
    plan = plan_tiles(query.labels, gallery, same_camera=same_camera, block=block, chunk=chunk)
    is_wanted = np.zeros(len(gallery), bool)
    is_wanted[plan.relevant.items] = is_wanted[plan.removed.items] = True
    wanted, place = np.flatnonzero(is_wanted), np.cumsum(is_wanted) - 1
    lay_out = Layout(plan, place, queries, _steps(plan.rows))
    ready = ChunkPreparer(plan.length, features.shape[1], metric, dtype)
    load = functools.partial(_load, source, plan, wanted, ready)
    blocks: dict[int, Block] = {}
    seen = 0
    for number in _visit(plan, lay_out, load, blocks, lambda: ready.held):
        seen += len(plan.chunks[number])
        if progress is not None:
            progress(seen, len(gallery))
    return _sorted(plan.relevant, [page for b in blocks.values() for page in b.relevant])


def plan_tiles(
    query: Labels, gallery: Labels, *, same_camera: str, block: int | None, chunk: int | None
) -> Plan:
    """The plan for this machine's devices; see `relevant_ranks`."""
    labels = _number(query.pids, gallery.pids)
    views = _number(*camera_views(query, gallery, same_camera))
    usual = _TILES.get(jax.default_backend(), _LARGE_TILES)
    share = -(-len(query) // jax.device_count())
    return make_plan(
        labels[0],
        views[0],
        labels[1],
        views[1],
        block=block or min(usual[0], share),
        chunk=chunk or usual[1],
    )


def _number(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Renumbers ids from 0, as int32; gaps stay where they fit."""
    both = np.concatenate([query, gallery])
    low = both.min()
    if int(both.max()) - int(low) < 2**31:
        labels = both - low
    else:
        labels = np.unique(both, return_inverse=True)[1]
    labels = labels.astype(np.int32)
    return labels[: len(query)], labels[len(query) :]


def _load(
    source: FeatureSource, plan: Plan, wanted: np.ndarray, ready: ChunkPreparer, number: int
) -> _Chunk:
    rows = plan.chunks[number]
    features, offset = ready(source(rows))
    columns = np.zeros(1 << len(wanted).bit_length(), np.int32)  # few lengths: few compilations
    columns[: len(wanted)] = np.searchsorted(rows, wanted)
    return _Chunk(*replicate((features, offset, columns, np.int32(len(rows)))))


def _visit(
    plan: Plan,
    lay_out: Callable[[Group], Block],
    load: Callable[[int], _Chunk],
    blocks: dict[int, Block],
    held: Callable[[], bool],
) -> Iterator[int]:
    """Every block meets every chunk; yields the number of each chunk when it has been asked for.

    A block meets its homes first, and is laid out then, while accelerators count those before. Then
    it knows what it compares with, and meets the chunks that are here; at the end those that found
    no place to wait. A block across several homes keeps a few tiles of the first until it has seen
    the last. Where a device holds the gallery, the host does not wait for counts between chunks.
    """
    kept: dict[int, dict[int, _Tile]] = {}
    groups = deal(plan)
    last_home = [int(group.home.max()) for group in groups]
    pending = [set(range(len(plan.chunks)) if last >= 0 else ()) for last in last_home]
    waiting = ChunkCache()
    for number in range(len(plan.chunks)):
        chunk = load(number)
        if not held() or number % _AHEAD == 0:
            jax.block_until_ready([page.counts for b in blocks.values() for page in b.relevant])
        for k, group in enumerate(groups):
            if (group.home == number).any():
                block = blocks.get(k) or lay_out(group)
                blocks[k], tile = _meet_home(block, chunk, number)
                if last_home[k] == number:
                    pending[k].discard(number)
                    for earlier, other in kept.pop(k, {}).items():
                        blocks[k] = _count(blocks[k], other, blocks[k].home > earlier)
                elif sum(map(len, kept.values())) < _KEPT_TILES:
                    pending[k].discard(number)
                    kept.setdefault(k, {})[number] = tile
                del tile
        ready = [k for k, last in enumerate(last_home) if last <= number]
        _meet_all(blocks, ready, pending, number, lambda chunk=chunk: chunk)
        for other in waiting.numbers():
            _meet_all(blocks, ready, pending, other, functools.partial(waiting.get, other))
        needed = set().union(*pending)
        waiting.keep_only(needed)
        if number in needed:
            waiting.put(number, chunk)
        yield number
    for number in sorted(set().union(*pending)):
        _meet_all(blocks, blocks, pending, number, functools.partial(load, number))


def _meet_all(
    blocks: dict[int, Block],
    which: Iterable[int],
    pending: list[set[int]],
    number: int,
    get: Callable[[], _Chunk],
) -> None:
    """Those of the blocks that have not met this chunk yet meet it."""
    due = [k for k in which if number in pending[k]]
    if due:
        chunk = get()
        for k in due:
            home = blocks[k].home
            blocks[k] = _meet(blocks[k], chunk, (home > number) | ~(home == number).any())
            pending[k].discard(number)


def _meet_home(block: Block, chunk: _Chunk, number: int) -> tuple[Block, _Tile]:
    """Read the limits of the queries whose home this chunk is; count for those that have theirs."""
    at_home = block.home == number
    scores = _tile_scores(block.queries, chunk.features, chunk.offset)
    relevant = [
        page._replace(limits=_read_limits(scores, page.items, page.limits, chunk.columns, at_home))
        for page in block.relevant
    ]
    for items in block.removed:
        scores = _hide_removed(scores, items, chunk.columns, at_home)
    tile = _Tile(scores, chunk.columns, chunk.filled)
    return _count(block._replace(relevant=relevant), tile, block.home <= number), tile


def _meet(block: Block, chunk: _Chunk, active: np.ndarray) -> Block:
    scores = _tile_scores(block.queries, chunk.features, chunk.offset)
    return _count(block, _Tile(scores, chunk.columns, chunk.filled), active)


def _count(block: Block, tile: _Tile, active: np.ndarray) -> Block:
    def counts(page: Page) -> Array:
        return _count_ahead(
            tile.scores,
            page.items,
            page.limits,
            page.counts,
            tile.columns,
            tile.filled,
            active,
            work=page.work,
            steps=page.steps,
            bound=page.bound,
        )

    relevant = [page._replace(counts=counts(page)) for page in block.relevant]
    if jax.default_backend() == "cpu":  # two tiles at a time would fight for its cache
        jax.block_until_ready([page.counts for page in relevant])
    return block._replace(relevant=relevant)


def _sorted(pairs: Pairs, pages: list[Page]) -> Ranks:
    """The ranks from the counts of all devices and hosts."""
    ranks = collect(pairs, pages)
    if jax.process_count() > 1:
        ranks = np.asarray(multihost_utils.process_allgather(ranks)).sum(0)
    query = np.repeat(np.arange(len(pairs.counts)), pairs.counts)
    both = np.sort(query << 32 | ranks.astype(np.int64))  # numbers: far faster than pairs
    return Ranks(both & (2**32 - 1), pairs.offsets)


def _tile_scores(*args: Any) -> Array:
    return on_devices(count.tile_scores, (0, None, None))(*args)


def _read_limits(*args: Any) -> Array:
    return on_devices(count.read_limits, (0, 0, 0, None, 0))(*args)


def _hide_removed(*args: Any) -> Array:
    return on_devices(count.hide_removed, (0, 0, None, 0), (0,))(*args)


def _count_ahead(scores: Array, *args: Any, work: Any, steps: Any, bound: int | None) -> Array:
    if _way() == "kernel":
        from batnet_jax.retrieval.streaming import count_pallas

        return on_devices(count_pallas.count_ahead, (0, 0, 0, 0, None, None, 0), (3,))(
            scores, *args
        )
    function = _counting(_rows_at_once(scores.shape[1]), _way() == "windows", bound)
    axes = (0, 0, 0, 0, None, None, 0, 0, 0)
    return on_devices(function, axes, (3,))(scores, *args, work, steps)


@functools.cache
def _counting(rows: int, windows: bool, bound: int | None) -> Callable:
    return functools.partial(count.count_ahead, rows=rows, windows=windows, bound=bound)


def _way() -> str:
    """How to count.

    A CPU's cache wants a few queries at a time, in windows; a GPU has a kernel, if XLA compiles it
    for it; others take plain sums of all queries.
    """
    if jax.default_backend() == "cpu":
        return "windows"
    return "kernel" if _has_kernels(jax.local_devices()[0]) else "sums"


def _has_kernels(device: Any) -> bool:
    """Whether Pallas has kernels for it: NVIDIA's from compute capability 8.0 (Ampere) on."""
    capability = str(getattr(device, "compute_capability", ""))  # AMD's have names
    number = re.fullmatch(r"(\d+)\.\d+", capability)
    return device.platform == "gpu" and number is not None and int(number[1]) >= 8


def _steps(block: int) -> Steps | None:
    """None: a kernel needs no list of them."""
    if _way() == "kernel":
        return None
    return Steps(_rows_at_once(block), bounded=_way() == "sums")


def _rows_at_once(block: int) -> int:
    return min(ROWS, block) if _way() == "windows" else block
