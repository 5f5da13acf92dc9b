"""The gallery items most similar to each query: for pictures of ranked lists and for searching.

The gallery is read once, in chunks, and only the best items so far are kept. Memory does not grow
with the gallery, which may be a `RowFile` or a mapped file: `np.load(path, mmap_mode="r")`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float32, Int32

from batnet_jax.retrieval import checks
from batnet_jax.retrieval.mapped_rows import release_pages
from batnet_jax.retrieval.row_file import ALIGNMENT, RowFile, aligned_array
from batnet_jax.retrieval.scores import (
    LARGE,
    block_scores,
    pad_block,
    rescale_rows,
    row_lengths,
    unit_length,
)

# Gallery items and queries at a time: 16 MiB of scores. Larger arrays would be allocated again each
# time, and clearing their memory takes a tenth of the time of the product.
CHUNK = 2**13
_BLOCK = 512
_GROUP = 16
# With fewer groups than this many times k, `grouped_top_k` would look at too many scores twice.
_MIN_GROUPS_PER_K = 4


class Best(NamedTuple):
    """The best k items so far of each query, best first; equal scores by index."""

    scores: Float32[Array, "b k"]
    items: Int32[Array, "b k"]


def empty_best(num_query: int, k: int) -> Best:
    """Return lists without items: every item of a finite score precedes their entries."""
    shape = (num_query, k)
    return Best(jnp.full(shape, -jnp.inf, jnp.float32), jnp.full(shape, -1, jnp.int32))


def grouped_top_k(
    scores: Float32[Array, "b n"] | Float32[Array, "n b"], k: int, *, axis: int = 1
) -> tuple[Float32[Array, "b k"], Int32[Array, "b k"]]:
    """Return the result of `jax.lax.top_k` along an axis of n >= k; equal scores by index.

    `jax.lax.top_k` of whole rows is slow on CPUs, because it goes through the numbers one by one on
    one core. A long row is therefore divided into groups of neighbours, and `top_k` of the groups'
    maxima selects k groups. Maxima are fast to compute, but only of an array that is stored in
    memory: hence the barrier.

    The selected groups contain the k best scores. Call a group's first item its best item, of equal
    ones the one of lowest index. Groups of equal maxima are in the order of their indices, so
    `top_k` of the maxima orders groups as their first items are ordered. If a group is not
    selected, the first items of k other groups precede all of its own items. The selected groups
    are sorted by index, so that the second `top_k` also orders equal scores by index.
    """
    scores = jax.lax.optimization_barrier(scores)
    length = scores.shape[axis]
    num_groups = -(-length // _GROUP)
    if num_groups < _MIN_GROUPS_PER_K * k:
        return jax.lax.top_k(scores if axis == 1 else scores.T, k)
    padding = [(0, 0), (0, 0)]
    padding[axis] = (0, num_groups * _GROUP - length)  # at the end: behind all of equal score
    scores = jnp.pad(scores, padding, constant_values=-jnp.inf)
    if axis == 1:
        maxima = scores.reshape(-1, num_groups, _GROUP).max(2)
    else:
        maxima = jax.lax.optimization_barrier(scores.reshape(num_groups, _GROUP, -1).max(1)).T
    _, groups = jax.lax.top_k(maxima, k)
    groups = jnp.sort(groups, axis=1)
    indices = (groups[:, :, None] * _GROUP + jnp.arange(_GROUP)).reshape(len(groups), -1)
    row = jnp.arange(len(groups))[:, None]
    best, chosen = jax.lax.top_k(scores[row, indices] if axis == 1 else scores[indices, row], k)
    return best, jnp.take_along_axis(indices, chosen, axis=1)


def merge_best(best: Best, scores: Array, first: int | Array, *, axis: int = 1) -> Best:
    """Return the best items after n further items have been seen.

    Args:
      best: the best of the items before.
      scores: of the further items, [b, n], or [n, b] if `axis` is 0.
      first: the index of the first further item; the others follow. It exceeds the indices of all
        items before, so earlier items stay first among equal scores.
      axis: of `scores`, along the items.
    """
    k = best.scores.shape[1]
    new_scores, columns = grouped_top_k(scores, min(k, scores.shape[axis]), axis=axis)
    both = jnp.concatenate([best.scores, new_scores], axis=1)
    items = jnp.concatenate([best.items, columns + first], axis=1)
    kept, chosen = jax.lax.top_k(both, k)
    return Best(kept, jnp.take_along_axis(items, chosen, axis=1))


class _Chunk(NamedTuple):
    """Gallery items on the device; a score is (query . row + offset) / length."""

    rows: Float32[Array, "n d"]
    offsets: Float32[Array, " n"]
    lengths: Float32[Array, " n"]


class _Tile(NamedTuple):
    """The scores of a block of queries against a chunk, before its merge into the best items."""

    block: int
    scores: Float32[Array, "b n"]
    first: np.int32  # the gallery index of the chunk's first item


_row_lengths = jax.jit(row_lengths)
_tile_scores = jax.jit(block_scores)
_merge_best = jax.jit(merge_best)


@jax.jit
def _merge_and_score(
    best: Best, scores: Array, first: Int32[Array, ""], query: Array, chunk: _Chunk
) -> tuple[Best, Array]:
    """Merge one tile while computing the next: merging alone would use only one core."""
    return merge_best(best, scores, first), block_scores(query, *chunk)


def top_k(
    query_features: ArrayLike,
    gallery_features: ArrayLike | RowFile,
    k: int,
    *,
    metric: str = "cosine",
    block: int | None = None,
) -> tuple[Int32[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
    """List the k gallery items most similar to each query, best first, equal scores by index.

    No item is left out. The order is the order of `evaluate`, except for rounding.

    Args:
      query_features: [q, d] finite floats, not necessarily normalised.
      gallery_features: [g, d]; may be a `RowFile` or a mapped file, which is read once and never
        held as a whole.
      k: items to list; if k > g all g are listed, so the results have min(k, g) columns.
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
    gallery = _check_gallery(gallery_features, metric)
    checks.same_dimension(query.shape[1], gallery.shape[1])
    k, chunk = min(k, len(gallery)), _chunk_length(len(gallery))
    if block is None:
        block = _even_size(len(query), _BLOCK)
    best = _search(query, gallery, k, metric, checks.positive_int("block", block), chunk)
    indices = np.concatenate([b.items for b in best])[: len(query)]
    scores = np.concatenate([b.scores for b in best])[: len(query)]
    # Rounding takes a cosine beyond 1 now and then.
    return indices, np.clip(scores, -1, 1) if metric == "cosine" else _minus_distances(
        query, scores
    )


def _search(
    query: np.ndarray, gallery: np.ndarray | RowFile, k: int, metric: str, block: int, chunk: int
) -> list[Best]:
    """Return the best k items for each block of queries, in scores of `block_scores`."""
    features = unit_length(query) if metric == "cosine" else query
    blocks = [
        jax.device_put(pad_block(features[start : start + block], block))
        for start in range(0, len(features), block)
    ]
    best = [empty_best(block, k) for _ in blocks]
    tile = None
    for first, rows in _read_chunks(gallery, chunk):
        start = int(first)
        items = _put_chunk(rows, start, min(chunk, len(gallery) - start), metric)
        # The host may be one chunk ahead of the device, no further.
        jax.block_until_ready((best, tile and tile.scores))
        for number, part in enumerate(blocks):
            if tile is None:
                scores = _tile_scores(part, *items)
            else:
                best[tile.block], scores = _merge_and_score(
                    best[tile.block], tile.scores, tile.first, part, items
                )
            tile = _Tile(number, scores, first)
        if isinstance(gallery, np.ndarray):
            release_pages(gallery[max(0, start - chunk) : start])
    if tile is not None:
        best[tile.block] = _merge_best(best[tile.block], tile.scores, tile.first)
    return best


def _chunk_length(count: int) -> int:
    """Return the length of a chunk: a power of two, so that few lengths are compiled for."""
    return min(CHUNK, 1 << max(count - 1, 0).bit_length())


def _even_size(number: int, most: int) -> int:
    """Return the size of the fewest equal parts that have at most `most` members."""
    return -(-number // -(-number // most))


def _check_gallery(given: ArrayLike | RowFile, metric: str) -> np.ndarray | RowFile:
    """Check a gallery as a whole, or only its shape if `_put_chunk` can check it in chunks."""
    if isinstance(given, RowFile):
        if len(given) > CHUNK and given.shape[1]:
            return given
        given = given[:]
    array = checks.as_array("gallery_features", given)
    if array.ndim == 2 and len(array) > CHUNK and array.shape[1] and array.dtype.kind in "fiub":
        return array
    return checks.features("gallery_features", given, metric)


def _read_chunks(
    gallery: np.ndarray | RowFile, length: int
) -> Iterator[tuple[np.int32, Float32[np.ndarray, "n d"]]]:
    """Yield (index of the first row, `length` rows); the last chunk is padded with zeros.

    Rows are not copied if the device can read them in place, in memory or in a mapped file. Copied
    rows are overwritten by the chunk after the next.
    """
    buffers = [aligned_array((length, gallery.shape[1]), np.float32) for _ in range(2)]
    for number, first in enumerate(range(0, len(gallery), length)):
        if isinstance(gallery, RowFile) and gallery.dtype == np.float32:
            rows = buffers[number % 2]
            count = min(length, len(gallery) - first)
            gallery.read_into(first, rows[:count])
            rows[count:] = 0
            yield np.int32(first), rows
            continue
        rows = gallery[first : first + length]
        whole = len(rows) == length and rows.dtype == np.float32 and rows.flags.c_contiguous
        if not whole or rows.ctypes.data % ALIGNMENT:
            buffer = buffers[number % 2]
            buffer[len(rows) :] = 0
            with np.errstate(over="ignore"):  # an overflow becomes inf, which is refused later
                buffer[: len(rows)] = rows
            rows = buffer
        yield np.int32(first), rows


def _put_chunk(rows: Float32[np.ndarray, "n d"], first: int, count: int, metric: str) -> _Chunk:
    """Put a chunk on the device.

    Args:
      rows: the items, then padding.
      first: the gallery index of the first item.
      count: items.
      metric: "cosine" or "euclidean".

    Raises: UserError if an item is not finite, or too long for Euclidean distances.
    """
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
    lengths, is_safe = _row_lengths(on_device)
    if not is_safe.all():
        checks.features(name, rows[:count], metric)
        on_device = jax.device_put(rescale_rows(rows, ~np.asarray(is_safe)))
        lengths, _ = _row_lengths(on_device)
    return _Chunk(on_device, offsets, lengths)


def _minus_distances(
    query: Float32[np.ndarray, "q d"], scores: Float32[np.ndarray, "q k"]
) -> Float32[np.ndarray, "q k"]:
    """Turn scores q.g - |g|^2 / 2 into -|q - g|."""
    squares = np.einsum("nd,nd->n", query, query, dtype=np.float64)
    distances = np.sqrt(np.maximum(squares[:, None] - 2.0 * scores, 0))
    return (0 - distances).astype(np.float32)
