"""k-reciprocal re-ranking: items that share mutual neighbours move closer together.

Zhong, Zheng, Cao and Li, "Re-ranking Person Re-identification with k-reciprocal Encoding",
CVPR 2017. The published code stores several n x n matrices, n = q + g. Here the neighbours are
found in tiles, the encodings are sparse, and distances are computed for a block of queries at a
time.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float32
from scipy import sparse

from batnet_jax.errors import UserError
from batnet_jax.retrieval import checks
from batnet_jax.retrieval.reranking.encoding import Encoding, encode
from batnet_jax.retrieval.scores import block_size, iterate_scores, pad_block, unit_length

_SHARED_AT_ONCE = 2**21


class KReciprocal(NamedTuple):
    """The settings of the re-ranking; the defaults are the paper's."""

    k1: int = 20  # neighbours that must be mutual
    k2: int = 6  # encodings that are averaged; 1: only the item's own
    weight: float = 0.3  # original distance's weight; the Jaccard distance has the rest


def reranked_rows(
    query_features: ArrayLike,
    gallery_features: ArrayLike,
    settings: KReciprocal,
    *,
    metric: str = "cosine",
    block: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[slice, Float32[np.ndarray, "b g"]]]:
    """Yield (slice of queries, their final distances to the gallery), a block at a time.

    The final distance (Eq. 12) is weight x original + (1 - weight) x Jaccard. The original distance
    is the squared Euclidean distance, divided by the query's largest to any of the n = q + g items.
    Final distances are between 0 and 1, up to rounding; smaller is nearer. Time grows with n^2 x d;
    memory with n x d, the encodings (a few hundred entries for each image with the paper's k1 and
    k2) and block x g.

    Args:
      query_features: [q, d] finite floats, not necessarily normalised.
      gallery_features: [g, d], without junk, because every image may be a neighbour of another.
      settings: see `KReciprocal`.
      metric: "cosine" brings the features to unit length first; "euclidean" takes them as given.
      block: queries at a time. None chooses.
      progress: called as progress(steps done, steps in all): tiles of the search for neighbours,
        then blocks of queries.

    Raises:
      UserError: for settings out of range, or features that do not fit together or are not finite;
        raised by the call itself, before the first block is requested.
    """
    checks.choice("metric", metric, checks.METRICS)
    settings = check_settings(settings)
    query = checks.features("query_features", query_features, metric)
    gallery = checks.features("gallery_features", gallery_features, metric)
    checks.same_dimension(query.shape[1], gallery.shape[1])
    if block is not None:
        block = checks.positive_int("block", block)
    return iterate_distances(
        query, gallery, settings, metric=metric, block=block, progress=progress
    )


def check_settings(settings: KReciprocal) -> KReciprocal:
    """Return the settings as plain numbers, or raise UserError if one is out of range."""
    k1 = checks.positive_int("k1", settings.k1)
    k2 = checks.positive_int("k2", settings.k2)
    weight: Any = settings.weight
    is_number = isinstance(weight, int | float | np.number) and not isinstance(weight, bool)
    if not is_number or not 0 <= weight <= 1:
        raise UserError(
            f"weight={weight!r}: must be a number from 0 (Jaccard distance alone) to 1 (the"
            " original distance alone); correct the argument"
        )
    return KReciprocal(k1, k2, float(weight))


def iterate_distances(
    query: np.ndarray,
    gallery: np.ndarray,
    settings: KReciprocal,
    *,
    metric: str,
    block: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[slice, Float32[np.ndarray, "b g"]]]:
    """Yield as `reranked_rows` does, for arguments that have been checked."""
    num_query = len(query)
    block = block or block_size(num_query, len(gallery))
    features = np.concatenate([query, gallery])
    if metric == "cosine":
        features = unit_length(features)
    blocks = -(-num_query // block)
    num_tiles = 0

    def tile_done(done: int, tiles: int) -> None:
        nonlocal num_tiles
        num_tiles = tiles
        if progress is not None:
            progress(done, tiles + blocks)

    encoding = encode(features, k1=settings.k1, k2=settings.k2, progress=tile_done)
    query, gallery = features[:num_query], features[num_query:]
    by_entry = sparse.csc_array(encoding.vectors[num_query:])
    squares = np.einsum("nd,nd->n", query, query, dtype=np.float64).astype(np.float32)
    scored = iterate_scores(query, gallery, metric="euclidean", block=block)
    for number, (which, scores) in enumerate(scored, start=1):
        sizes = pad_block(squares[which], block), pad_block(encoding.farthest[which], block)
        rows = np.array(_unshared_distances(scores, *sizes, settings.weight))[
            : which.stop - which.start
        ]
        _subtract_shared(rows, encoding, which, by_entry, 1 - settings.weight)
        yield which, rows
        if progress is not None:
            progress(num_tiles + number, num_tiles + blocks)


@jax.jit
def _unshared_distances(
    scores: Float32[Array, "b g"],
    squares: Float32[Array, " b"],
    farthest: Float32[Array, " b"],
    weight: float,
) -> Float32[Array, "b g"]:
    """Return the final distances of items that share no neighbour."""
    distances = jnp.maximum(squares[:, None] - 2 * scores, 0)
    return 1 - weight + weight * distances / jnp.where(farthest == 0, 1, farthest)[:, None]


def _subtract_shared(
    rows: Float32[np.ndarray, "b g"],
    encoding: Encoding,
    which: slice,
    by_entry: sparse.csc_array,
    weight: float,
) -> None:
    """Subtract the neighbours that queries and gallery items share from their distances.

    Let s be the sum over all entries of the smaller of two vectors' entries. Each vector sums to 1,
    so the Jaccard distance of the two is 1 - s / (2 - s) (Eq. 10).

    Args:
      rows: distances of items that share no neighbour; changed in place.
      encoding: of all items, queries first.
      which: the queries of `rows`.
      by_entry: [g, n] the vectors of the gallery by columns: for each of the n items, the gallery
        items whose vectors have an entry for it.
      weight: of the Jaccard distance.
    """
    num_gallery = rows.shape[1]
    strip = max(1, _SHARED_AT_ONCE // num_gallery)
    for start in range(0, len(rows), strip):
        part = rows[start : start + strip]
        first = which.start + start
        vectors = encoding.vectors[first : first + len(part)]
        row = np.repeat(np.arange(len(part)), np.diff(vectors.indptr))
        begin = by_entry.indptr[vectors.indices].astype(np.int64)
        count = by_entry.indptr[vectors.indices + 1] - begin
        ends = np.cumsum(count)
        position = np.repeat(begin - ends + count, count) + np.arange(count.sum())
        cell = np.repeat(row * num_gallery, count) + by_entry.indices[position]
        smaller = np.minimum(np.repeat(vectors.data, count), by_entry.data[position])
        shared = np.bincount(cell, smaller, minlength=part.size)
        cells = np.flatnonzero(shared)
        shared = shared[cells]
        part.reshape(-1)[cells] -= (weight * shared / (2 - shared)).astype(np.float32)
