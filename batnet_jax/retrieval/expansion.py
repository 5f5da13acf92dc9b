"""Query expansion: each query is averaged with the first items it finds, for a second search."""

import numpy as np
from jaxtyping import ArrayLike, Float32

from batnet_jax.errors import UserError
from batnet_jax.retrieval import checks
from batnet_jax.retrieval.mapped_rows import read_rows
from batnet_jax.retrieval.matches import ItemLists
from batnet_jax.retrieval.scores import unit_length
from batnet_jax.retrieval.search import top_k


def expand_queries(
    query_features: ArrayLike,
    gallery_features: ArrayLike,
    *,
    k: int,
    alpha: float = 0.0,
    metric: str = "cosine",
    left_out: ItemLists | None = None,
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
      left_out: items that a query is not averaged with, see `check_left_out`; None for none.

    Returns: the new queries, [q, d].

    Raises:
      UserError: for features that do not fit together or are not finite, k below 1, or an alpha
        that is not allowed.
    """
    _check_alpha(alpha, checks.choice("metric", metric, checks.METRICS))
    indices, cosines = _first_items(query_features, gallery_features, k, metric, left_out)
    gallery = checks.as_array("gallery_features", gallery_features)
    query = checks.features("query_features", query_features, metric)
    total = unit_length(query) if metric == "cosine" else query
    sum_weights = np.ones((len(query), 1), np.float32)
    for items, cosine in zip(indices.T, cosines.T, strict=True):
        rows = read_rows(gallery, items)
        if metric == "cosine":
            rows = unit_length(rows)
        weights = np.maximum(cosine[:, None], 0) ** np.float32(alpha)
        weights *= np.isfinite(cosine)[:, None]
        total += weights * rows
        sum_weights += weights
    total /= sum_weights
    return unit_length(total) if metric == "cosine" else total


def _first_items(
    query: ArrayLike, gallery: ArrayLike, k: int, metric: str, left_out: ItemLists | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the result of `top_k` without the items that a query leaves out.

    If fewer than k items remain for a query, items with the score -inf fill its list.
    """
    most = 0 if left_out is None else int(left_out.counts.max(initial=0))
    if left_out is None or not most:
        return top_k(query, gallery, k, metric=metric)
    indices, scores = top_k(query, gallery, checks.positive_int("k", k) + most, metric=metric)
    is_out = np.stack([np.isin(row, left_out.of(q)) for q, row in enumerate(indices)])
    order = np.argsort(is_out, axis=1, kind="stable")[:, :k]  # items that count come first
    scores = np.where(is_out, -np.float32(np.inf), scores)
    return np.take_along_axis(indices, order, 1), np.take_along_axis(scores, order, 1)


def _check_alpha(alpha: float, metric: str) -> None:
    is_number = isinstance(alpha, int | float | np.number) and not isinstance(alpha, bool)
    if not is_number or not 0 <= alpha < np.inf:
        raise UserError(f"alpha={alpha!r}: must be a number of at least 0; correct the argument")
    if alpha and metric != "cosine":
        raise UserError(
            f"alpha={alpha!r} with metric={metric!r}: weights are powers of the cosine; use"
            " alpha=0, or metric='cosine'"
        )
