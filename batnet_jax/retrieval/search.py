"""The best of the gallery for each query: for ranked-list pictures and the search mode.

The gallery passes by once, in chunks; of each only the best are kept. So memory does not grow with
the gallery, which may be a mapped file: `np.load(path, mmap_mode="r")`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float32, Int32

from batnet_jax.retrieval import checks
from batnet_jax.retrieval.mapped_rows import give_back
from batnet_jax.retrieval.scores import (
    LARGE,
    block_scores,
    near_one,
    pad_block,
    row_lengths,
    unit_length,
)

# Gallery items and queries at a time: 16 MiB of scores. Larger ones are new memory every time, and
# the system takes as long to clear that as a tenth of the product.
CHUNK = 2**13
_BLOCK = 512
_ALIGNMENT = (
    64  # bytes; the CPU's device works on memory so aligned where it lies, and copies other
)
_GROUP = 16
# Of fewer than this many times k groups, too large a part would be looked at twice.
_GROUPS_A_K = 4


class Best(NamedTuple):
    """The best so far, best first; of equal ones that of lower index first."""

    scores: Float32[Array, "b k"]
    items: Int32[Array, "b k"]


def nothing_yet(num_query: int, k: int) -> Best:
    """A list without items, which every item of a finite score precedes."""
    shape = (num_query, k)
    return Best(jnp.full(shape, -jnp.inf, jnp.float32), jnp.full(shape, -1, jnp.int32))


def best_places(
    scores: Float32[Array, "b n"] | Float32[Array, "n b"], k: int, *, axis: int = 1
) -> tuple[Float32[Array, "b k"], Int32[Array, "b k"]]:
    """What `jax.lax.top_k` finds along an axis of n >= k: on ties the lower index comes first.

    Long rows are taken in groups of neighbours. Each group is known by its first item: that of the
    greatest score, of equal ones that of lowest index. Of two groups of one maximum the earlier
    has its first item before the other's, so `top_k` of the maxima puts the groups in the order of
    their first items. A group that is not among the first k has k items, of k other groups, before
    all of its own: none of its own is among the first k. The k groups are then laid out in the
    order of their indices, so that among these, too, the lower position is the lower index.

    `top_k` of whole rows is slow on CPUs, which take them number by number on one core. Maxima are
    fast, but only of an array that is there: hence the barrier.
    """
    scores = jax.lax.optimization_barrier(scores)
    length = scores.shape[axis]
    num_groups = -(-length // _GROUP)
    if num_groups < _GROUPS_A_K * k:
        return jax.lax.top_k(scores if axis == 1 else scores.T, k)
    missing = [(0, 0), (0, 0)]
    missing[axis] = (0, num_groups * _GROUP - length)  # at the end: behind all of equal score
    scores = jnp.pad(scores, missing, constant_values=-jnp.inf)
    if axis == 1:
        maxima = scores.reshape(-1, num_groups, _GROUP).max(2)
    else:
        maxima = jax.lax.optimization_barrier(scores.reshape(num_groups, _GROUP, -1).max(1)).T
    _, groups = jax.lax.top_k(maxima, k)
    groups = jnp.sort(groups, axis=1)
    places = (groups[:, :, None] * _GROUP + jnp.arange(_GROUP)).reshape(len(groups), -1)
    line = jnp.arange(len(groups))[:, None]
    best, chosen = jax.lax.top_k(scores[line, places] if axis == 1 else scores[places, line], k)
    return best, jnp.take_along_axis(places, chosen, axis=1)


def take_in(best: Best, scores: Array, first: int | Array, *, axis: int = 1) -> Best:
    """`best` after another n items, the indices of which are `first` and those that follow.

    Their indices are above all that were taken in before, so on ties the earlier ones stay.
    `scores` are [b, n], or [n, b] where the axis of the items is 0.
    """
    k = best.scores.shape[1]
    new_scores, places = best_places(scores, min(k, scores.shape[axis]), axis=axis)
    both = jnp.concatenate([best.scores, new_scores], axis=1)
    items = jnp.concatenate([best.items, places + first], axis=1)
    kept, chosen = jax.lax.top_k(both, k)
    return Best(kept, jnp.take_along_axis(items, chosen, axis=1))


class _Chunk(NamedTuple):
    """Some gallery items, on the device. A score is (query . row + offset) / length."""

    rows: Float32[Array, "n d"]
    offsets: Float32[Array, " n"]
    lengths: Float32[Array, " n"]


class _Tile(NamedTuple):
    """The scores of a block of queries for a chunk, not looked through yet."""

    block: int
    scores: Float32[Array, "b n"]
    first: np.int32


_row_lengths = jax.jit(row_lengths)
_tile_scores = jax.jit(block_scores)
_take_in = jax.jit(take_in)


@jax.jit
def _take_in_and_score(
    best: Best, scores: Array, first: Int32[Array, ""], query: Array, chunk: _Chunk
) -> tuple[Best, Array]:
    """Looks through one tile beside the product of the next: alone it would keep one core busy."""
    return take_in(best, scores, first), block_scores(query, *chunk)


def top_k(
    query_features: ArrayLike,
    gallery_features: ArrayLike,
    k: int,
    *,
    metric: str = "cosine",
    block: int | None = None,
) -> tuple[Int32[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
    """List the k gallery items most like each query, best first, ties by gallery index.

    Nothing is removed here; the order is that of `evaluate`, but for rounding.

    Args:
      query_features: [q, d] finite floats, not necessarily normalised.
      gallery_features: [g, d]; may be a mapped file, which is read once and never held as a whole.
      k: items wanted; where k > g all g are listed, so the results have min(k, g) columns.
      metric: "cosine" or "euclidean".
      block: queries at a time; memory grows with block x `CHUNK`. None chooses.

    Returns: gallery indices [q, min(k, g)] int32, and their scores, float32: the cosine, or minus
      the Euclidean distance.

    Raises:
      UserError: for features that do not fit together or are not finite, or a k below 1.
    """
    checks.choice("metric", metric, checks.METRICS)
    k = checks.positive_int("k", k)
    query = checks.features("query_features", query_features, metric)
    gallery = _checkable(gallery_features, metric)
    checks.same_dimension(query.shape[1], gallery.shape[1])
    k, chunk = min(k, len(gallery)), min(CHUNK, len(gallery))
    block = _even(len(query), _BLOCK) if block is None else checks.positive_int("block", block)

    ready = unit_length(query) if metric == "cosine" else query
    blocks = [
        jax.device_put(pad_block(ready[start : start + block], block))
        for start in range(0, len(ready), block)
    ]
    best = [nothing_yet(block, k) for _ in blocks]
    tile = None
    for first, rows in _read_chunks(gallery, chunk):
        start = int(first)
        items = _put_chunk(rows, start, min(chunk, len(gallery) - start), metric)
        # The host is one chunk ahead of the device; it may go no further.
        jax.block_until_ready((best, tile and tile.scores))
        for number, part in enumerate(blocks):
            if tile is None:
                scores = _tile_scores(part, *items)
            else:
                best[tile.block], scores = _take_in_and_score(
                    best[tile.block], tile.scores, tile.first, part, items
                )
            tile = _Tile(number, scores, first)
        give_back(gallery[max(0, start - chunk) : start])
    if tile is not None:
        best[tile.block] = _take_in(best[tile.block], tile.scores, tile.first)
    indices = np.concatenate([b.items for b in best])[: len(query)]
    scores = np.concatenate([b.scores for b in best])[: len(query)]
    return indices, scores if metric == "cosine" else _minus_distances(query, scores)


def _even(number: int, most: int) -> int:
    """The size of as few pieces of one size as are of at most `most`."""
    return -(-number // -(-number // most))


def _checkable(given: ArrayLike, metric: str) -> np.ndarray:
    """The gallery: as it is where `_put_chunk` can check it by and by, else checked as a whole."""
    array = np.asarray(given)
    if array.ndim == 2 and len(array) > CHUNK and array.shape[1] and array.dtype.kind in "fiub":
        return array
    return checks.features("gallery_features", given, metric)


def _read_chunks(
    gallery: np.ndarray, length: int
) -> Iterator[tuple[np.int32, Float32[np.ndarray, "n d"]]]:
    """Yield (index of the first row, `length` rows); the last chunk is filled up with zeros.

    Rows that the device can read where they lie, in memory or in a mapped file, are not copied.
    Others are held by memory that holds the chunk after the next, too.
    """
    buffers = [_aligned(length, gallery.shape[1]) for _ in range(2)]
    for number, first in enumerate(range(0, len(gallery), length)):
        rows = gallery[first : first + length]
        whole = len(rows) == length and rows.dtype == np.float32 and rows.flags.c_contiguous
        if not whole or rows.ctypes.data % _ALIGNMENT:
            buffer = buffers[number % 2]
            buffer[len(rows) :] = 0
            with np.errstate(over="ignore"):  # an overflow shows as inf
                buffer[: len(rows)] = rows
            rows = buffer
        yield np.int32(first), rows


def _put_chunk(rows: Float32[np.ndarray, "n d"], first: int, count: int, metric: str) -> _Chunk:
    """`rows`, of which `count` are items, on the device, or UserError."""
    name = f"gallery_features[{first}:{first + count}]"
    offsets, lengths = np.zeros(len(rows), np.float32), np.ones(len(rows), np.float32)
    offsets[count:] = -np.inf
    if metric == "euclidean":
        squares = np.einsum("nd,nd->n", rows[:count], rows[:count], dtype=np.float64)
        if not (squares < LARGE).all():  # or not finite
            checks.features(name, rows[:count], metric)
        offsets[:count] = -0.5 * squares
        return _Chunk(*jax.device_put((rows, offsets, lengths)))
    on_device, offsets = jax.device_put((rows, offsets))
    lengths, sound = _row_lengths(on_device)
    if not sound.all():
        checks.features(name, rows[:count], metric)
        on_device = jax.device_put(near_one(rows, ~np.asarray(sound)))
        lengths, _ = _row_lengths(on_device)
    return _Chunk(on_device, offsets, lengths)


def _aligned(num_rows: int, dimensions: int) -> Float32[np.ndarray, "n d"]:
    """An array that starts at a multiple of `_ALIGNMENT`."""
    size = 4 * num_rows * dimensions
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(np.float32).reshape(num_rows, dimensions)


def _minus_distances(
    query: Float32[np.ndarray, "q d"], scores: Float32[np.ndarray, "q k"]
) -> Float32[np.ndarray, "q k"]:
    """q.g - |g|^2 / 2  ->  -|q - g|."""
    squares = np.einsum("nd,nd->n", query, query, dtype=np.float64)
    distances = np.sqrt(np.maximum(squares[:, None] - 2.0 * scores, 0))
    return (0 - distances).astype(np.float32)
