"""The best of the gallery for each query: for ranked-list pictures and the search mode."""

import functools

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float32, Int32

from batnet_jax.retrieval import checks
from batnet_jax.retrieval.scores import block_size, iterate_scores


@functools.partial(jax.jit, static_argnames="k")
def _best(scores: Float32[Array, "b g"], *, k: int) -> tuple[Array, Array]:
    return jax.lax.top_k(scores, k)  # of equal scores the lower index comes first


def top_k(
    query_features: ArrayLike,
    gallery_features: ArrayLike,
    k: int,
    *,
    metric: str = "cosine",
    block: int | None = None,
) -> tuple[Int32[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
    """List the k gallery items most like each query, best first, ties by gallery index.

    Nothing is removed here; the order is that of `evaluate`.

    Args:
      query_features: [q, d] finite floats, not necessarily normalised.
      gallery_features: [g, d].
      k: items wanted; where k > g all g are listed, so the results have min(k, g) columns.
      metric: "cosine" or "euclidean".
      block: queries at a time; memory grows with block x g. None chooses.

    Returns: gallery indices [q, min(k, g)] int32, and their scores, float32: the cosine, or minus
      the Euclidean distance.

    Raises:
      UserError: for features that do not fit together or are not finite, or a k below 1.
    """
    checks.choice("metric", metric, checks.METRICS)
    k = checks.positive_int("k", k)
    query = checks.features("query_features", query_features, metric)
    gallery = checks.features("gallery_features", gallery_features, metric)
    checks.same_dimension(query, gallery)
    k = min(k, len(gallery))
    block = block_size(len(query), len(gallery)) if block is None else block
    block = checks.positive_int("block", block)

    indices = np.empty((len(query), k), np.int32)
    scores = np.empty((len(query), k), np.float32)
    for which, all_scores in iterate_scores(query, gallery, metric=metric, block=block):
        best_scores, best_indices = _best(all_scores, k=k)
        count = which.stop - which.start
        indices[which] = np.asarray(best_indices)[:count]
        scores[which] = np.asarray(best_scores)[:count]
    if metric == "euclidean":  # q.g - |g|^2 / 2  ->  -|q - g|
        squares = np.einsum("nd,nd->n", query, query, dtype=np.float64)
        distances = np.sqrt(np.maximum(squares[:, None] - 2.0 * scores, 0))
        scores = (0 - distances).astype(np.float32)
    return indices, scores
