"""Query expansion: each query is averaged with the first items it finds, for a second search."""

import numpy as np
from jaxtyping import ArrayLike, Float32

from batnet_jax.errors import UserError
from batnet_jax.retrieval import checks
from batnet_jax.retrieval.mapped_rows import read_rows
from batnet_jax.retrieval.scores import unit_length
from batnet_jax.retrieval.search import top_k


def expand_queries(
    query_features: ArrayLike,
    gallery_features: ArrayLike,
    *,
    k: int,
    alpha: float = 0.0,
    metric: str = "cosine",
) -> Float32[np.ndarray, "q d"]:
    """Return the weighted mean of each query and the k gallery items most similar to it.

    The weight of an item is its cosine to the power of alpha, or 0 for a negative cosine; the
    query's is 1. alpha = 0 is average query expansion (Chum et al., ICCV 2007); a greater alpha
    trusts the first items more (Radenovic et al., TPAMI 2018, Sec. 3.3, where alpha is 3).

    Args:
      query_features: [q, d] finite floats, not necessarily normalised.
      gallery_features: [g, d]; may be a mapped file.
      k: items to average; if k > g all g are.
      alpha: at least 0; under "euclidean", which has no cosine, only 0.
      metric: "cosine": all features are brought to unit length first, and the means too.
        "euclidean": features are taken as given.

    Returns: the new queries, [q, d].

    Raises:
      UserError: for features that do not fit together or are not finite, k below 1, or an alpha
        that is not allowed.
    """
    _check_alpha(alpha, checks.choice("metric", metric, checks.METRICS))
    indices, cosines = top_k(query_features, gallery_features, k, metric=metric)
    gallery = np.asarray(gallery_features)
    query = checks.features("query_features", query_features, metric)
    total = unit_length(query) if metric == "cosine" else query
    sum_weights = np.ones((len(query), 1), np.float32)
    for items, cosine in zip(indices.T, cosines.T, strict=True):
        rows = read_rows(gallery, items)
        if metric == "cosine":
            rows = unit_length(rows)
        weights = np.maximum(cosine[:, None], 0) ** np.float32(alpha)
        total += weights * rows
        sum_weights += weights
    total /= sum_weights
    return unit_length(total) if metric == "cosine" else total


def _check_alpha(alpha: float, metric: str) -> None:
    is_number = isinstance(alpha, int | float | np.number) and not isinstance(alpha, bool)
    if not is_number or not 0 <= alpha < np.inf:
        raise UserError(f"alpha={alpha!r}: must be a number of at least 0; correct the argument")
    if alpha and metric != "cosine":
        raise UserError(
            f"alpha={alpha!r} with metric={metric!r}: weights are powers of the cosine; use"
            " alpha=0, or metric='cosine'"
        )
