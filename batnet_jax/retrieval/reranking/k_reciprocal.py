"""k-reciprocal re-ranking: people who are each other's neighbours come nearer.

Zhong, Zheng, Cao and Li, "Re-ranking Person Re-identification with k-reciprocal Encoding",
CVPR 2017. The published code holds several n x n matrices, n = q + g; here the neighbours are
found in tiles, the encodings are sparse, and distances come in blocks of queries.
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
    """Settings of the re-ranking; the defaults are the paper's."""

    k1: int = 20  # neighbours that must be mutual
    k2: int = 6  # encodings that are averaged; 1: none but the item's own
    weight: float = 0.3  # of the original distance; the Jaccard distance has the rest


def reranked_rows(
    query_features: ArrayLike,
    gallery_features: ArrayLike,
    settings: KReciprocal,
    *,
    metric: str = "cosine",
    block: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[slice, Float32[np.ndarray, "b g"]]]:
    """Yield (which queries, their final distances to the gallery), a block of queries at a time.

    The final distance (Eq. 12) is weight x original + (1 - weight) x Jaccard. The original one is
    the squared Euclidean distance over the query's largest to any of the n = q + g items. Smaller
    is nearer; distances are within 0 and 1, up to rounding. Time grows with n^2 x d; memory with
    n x d, the encodings (a few hundred entries an image, where k1 and k2 are the paper's) and
    block x g.

    Args:
      query_features: [q, d] finite floats, not necessarily normalised.
      gallery_features: [g, d]. All of them are neighbours to all: leave out junk first.
      settings: see `KReciprocal`.
      metric: "cosine" brings the features to unit length first; "euclidean" takes them as given.
      block: queries at a time. None chooses.
      progress: called as progress(steps done, steps in all): tiles of the search for neighbours,
        then blocks of queries.

    Raises:
      UserError: for settings out of range, or features that do not fit together or are not finite;
        at once, not at the first block.
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
    """`settings` with plain numbers, or UserError where one is out of range."""
    k1 = checks.positive_int("k1", settings.k1)
    k2 = checks.positive_int("k2", settings.k2)
    weight: Any = settings.weight
    number = isinstance(weight, int | float | np.number) and not isinstance(weight, bool)
    if not number or not 0 <= weight <= 1:
        raise UserError(
            f"weight={weight!r}: must be a number from 0 (Jaccard distance alone) to 1 (the"
            " original distance alone); mend the argument"
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
    """`reranked_rows` for arguments that have been checked."""
    num_query = len(query)
    block = block or block_size(num_query, len(gallery))
    features = np.concatenate([query, gallery])
    if metric == "cosine":
        features = unit_length(features)
    blocks = -(-num_query // block)
    before = 0

    def tile_done(done: int, tiles: int) -> None:
        nonlocal before
        before = tiles
        if progress is not None:
            progress(done, tiles + blocks)

    encoding = encode(features, k1=settings.k1, k2=settings.k2, progress=tile_done)
    query, gallery = features[:num_query], features[num_query:]
    holders = sparse.csc_array(encoding.vectors[num_query:])  # who has an item in the vector
    squares = np.einsum("nd,nd->n", query, query, dtype=np.float64).astype(np.float32)
    scored = iterate_scores(query, gallery, metric="euclidean", block=block)
    for number, (which, scores) in enumerate(scored, start=1):
        sizes = pad_block(squares[which], block), pad_block(encoding.farthest[which], block)
        rows = np.array(_far_apart(scores, *sizes, settings.weight))[: which.stop - which.start]
        _draw_nearer(rows, encoding, which, holders, 1 - settings.weight)
        yield which, rows
        if progress is not None:
            progress(before + number, before + blocks)


@jax.jit
def _far_apart(
    scores: Float32[Array, "b g"],
    squares: Float32[Array, " b"],
    farthest: Float32[Array, " b"],
    weight: float,
) -> Float32[Array, "b g"]:
    """Final distances of items that share no neighbour."""
    distances = jnp.maximum(squares[:, None] - 2 * scores, 0)
    return 1 - weight + weight * distances / jnp.where(farthest == 0, 1, farthest)[:, None]


def _draw_nearer(
    rows: Float32[np.ndarray, "b g"],
    encoding: Encoding,
    which: slice,
    holders: sparse.csc_array,
    weight: float,
) -> None:
    """Take off `rows` what queries and gallery items have in common.

    Vectors sum to 1, so the sum of the smaller entries of two, s, makes their Jaccard distance
    1 - s / (2 - s) (Eq. 10).

    Args:
      rows: final distances without it; changed in place.
      encoding: of all items, queries first.
      which: the queries of `rows`.
      holders: [n, g] the vectors of the gallery by columns: g rows, the entries of each item
        side by side.
      weight: of the Jaccard distance.
    """
    num_gallery = rows.shape[1]
    strip = max(1, _SHARED_AT_ONCE // num_gallery)
    for start in range(0, len(rows), strip):
        part = rows[start : start + strip]
        first = which.start + start
        vectors = encoding.vectors[first : first + len(part)]
        row = np.repeat(np.arange(len(part)), np.diff(vectors.indptr))
        begin = holders.indptr[vectors.indices].astype(np.int64)
        count = holders.indptr[vectors.indices + 1] - begin
        ends = np.cumsum(count)
        place = np.repeat(begin - ends + count, count) + np.arange(count.sum())
        cell = np.repeat(row * num_gallery, count) + holders.indices[place]
        smaller = np.minimum(np.repeat(vectors.data, count), holders.data[place])
        shared = np.bincount(cell, smaller, minlength=part.size)
        cells = np.flatnonzero(shared)
        shared = shared[cells]
        part.reshape(-1)[cells] -= (weight * shared / (2 - shared)).astype(np.float32)
