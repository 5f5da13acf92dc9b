"""Verification: do two images show the same person? Error rates over all pairs, and thresholds.

Scores are counted in fine bins, so no distance matrix is stored. The rates are exact at the edges
of the bins.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Int64

from batnet_jax.errors import UserError
from batnet_jax.retrieval import checks
from batnet_jax.retrieval.evaluator import record_rounding
from batnet_jax.retrieval.image_set import ImageSet
from batnet_jax.retrieval.left_out import check_test
from batnet_jax.retrieval.mapped_rows import read_rows
from batnet_jax.retrieval.matches import ItemLists, find_matches, keep_items, match_keys
from batnet_jax.retrieval.scores import block_size, iterate_scores, minus_distances

BINS = 2**16
_COARSE = 128  # bins of the histograms that are returned
Progress = Callable[[int, int], None]


def verify(
    query_features: ArrayLike,
    query_pids: ArrayLike,
    query_cameras: ArrayLike | None = None,
    gallery_features: Any = None,
    gallery_pids: Any = None,
    gallery_cameras: ArrayLike | None = None,
    *,
    query_ids: ArrayLike | None = None,
    gallery_ids: ArrayLike | None = None,
    ignore: Any = None,
    metric: str = "cosine",
    same_camera: str = "remove",
    false_accept_rates: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4),
    block: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure how well one threshold separates pairs of one person from pairs of two people.

    A pair consists of a query and a gallery image. It is positive if both show the same identity.

    Args:
      query_features: [q, d]; this and the other arrays as in `evaluate`.
      query_pids: [q] int.
      query_cameras: [q] int or None.
      gallery_features: [g, d].
      gallery_pids: [g] int; -1 (junk) is dropped.
      gallery_cameras: [g] int or None.
      query_ids: see `evaluate`.
      gallery_ids: see `evaluate`.
      ignore: see `evaluate`.
      metric: "cosine": accept where the cosine is at least the threshold. "euclidean": accept where
        the distance is at most the threshold.
      same_camera: "remove" leaves out positive pairs of one camera, but not negative ones; "keep"
        leaves nothing out.
      false_accept_rates: the shares of negative pairs that may be accepted.
      block: queries at a time; memory grows with block x g. None chooses.
      progress: called as progress(queries done, q) after each block.

    Returns: num_positive, num_negative; `operating_points`: for each wanted rate the lowest of
      65,535 thresholds of similarity whose false accept rate is no higher, both rates at this
      threshold (exact counts), and `resolved`: whether the negative pairs are enough to measure the
      rate; area_under_roc, equal_error_rate; histograms of both kinds of pair, with their edges.

    Raises:
      UserError: as `evaluate`; if positive or negative pairs are missing; for a rate that is
        not between 0 and 1.
    """
    query, gallery, left_out = check_test(
        (query_features, query_pids, query_cameras),
        (gallery_features, gallery_pids, gallery_cameras),
        metric=metric,
        same_camera=same_camera,
        query_ids=query_ids,
        gallery_ids=gallery_ids,
        ignore=ignore,
    )
    return verify_sets(
        query,
        gallery,
        left_out=left_out,
        metric=metric,
        same_camera=same_camera,
        false_accept_rates=false_accept_rates,
        block=block,
        progress=progress,
    ) | record_rounding((query_features, query.features), (gallery_features, gallery.features))


def verify_sets(
    query: ImageSet,
    gallery: ImageSet,
    *,
    left_out: ItemLists | None = None,
    metric: str = "cosine",
    same_camera: str = "remove",
    false_accept_rates: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4),
    block: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure all pairs of two image sets; see `verify`."""
    checks.choice("same_camera", same_camera, checks.SAME_CAMERA)
    for rate in false_accept_rates:
        if not 0 < rate < 1:
            raise UserError(f"false_accept_rates={rate!r}: each must be between 0 and 1")
    if left_out is not None:
        left_out = keep_items(left_out, gallery.not_junk, len(gallery))
    gallery = gallery.drop_junk()
    keys = match_keys(query.labels, gallery.labels, same_camera)
    matches = find_matches(*keys, left_out)
    features = read_rows(query.features, slice(None)), gallery.features
    size = block_size(len(query), max(len(gallery), 1)) if block is None else block
    size = checks.positive_int("block", size)
    low, high = _similarity_range(features, metric)
    positive, total = np.zeros((2, BINS), np.int64)
    blocks = iterate_scores(*features, metric=metric, block=size) if len(gallery) else ()
    for which, scores in blocks:
        similarities = np.asarray(scores)[: which.stop - which.start]
        if metric == "euclidean":
            similarities = minus_distances(features[0][which], similarities)
        for row, q in zip(similarities, range(which.start, which.stop), strict=True):
            bins = np.clip((row - low) * (BINS / (high - low)), 0, BINS - 1).astype(np.int64)
            relevant, removed, others = (lists.of(q) for lists in matches)
            total += np.bincount(bins, minlength=BINS)
            total -= np.bincount(bins[removed], minlength=BINS)
            total -= np.bincount(bins[others], minlength=BINS)
            positive += np.bincount(bins[relevant], minlength=BINS)
        if progress is not None:
            progress(which.stop, len(query))
    edges = low + np.arange(BINS + 1) * ((high - low) / BINS)
    edges = edges if metric == "cosine" else -edges
    return _figures(positive, total - positive, edges, false_accept_rates)


def _similarity_range(features: tuple[np.ndarray, np.ndarray], metric: str) -> tuple[float, float]:
    """Return bounds of the cosines, or of the distances times -1."""
    if metric == "cosine":
        return -1.001, 1.001  # rounded cosines may exceed 1 a little
    lengths = [np.einsum("nd,nd->n", f, f, dtype=np.float64).max(initial=0) for f in features]
    return -1.001 * max(float(np.sqrt(lengths).sum()), 1e-30), 0.0


def _figures(
    positive: Int64[np.ndarray, " bins"],
    negative: Int64[np.ndarray, " bins"],
    edges: np.ndarray,
    rates: Sequence[float],
) -> dict[str, Any]:
    """Return the figures of two histograms, lowest similarity first.

    Raises: UserError if a histogram is empty.
    """
    for name, counts in (("positive", positive), ("negative", negative)):
        if not counts.sum():
            raise UserError(
                f"there is no {name} pair of a query and a gallery image: give images of at least"
                " two people, one of them in both sets and seen by two cameras; check the pids and"
                " cameras"
            )
    # The rates of the threshold at each edge; beyond the last edge nothing is accepted.
    true_accepts = np.append(positive[::-1].cumsum()[::-1], 0) / positive.sum()
    false_accepts = np.append(negative[::-1].cumsum()[::-1], 0) / negative.sum()
    points = []
    for rate in rates:
        edge = int(np.argmax(false_accepts <= rate))
        points.append(
            {
                "wanted_false_accept_rate": float(rate),
                "false_accept_rate": float(false_accepts[edge]),
                "true_accept_rate": float(true_accepts[edge]),
                "threshold": float(edges[edge]),
                "resolved": bool(rate * negative.sum() >= 1),
            }
        )
    equal = int(np.argmin(np.abs(false_accepts - (1 - true_accepts))))
    return {
        "num_positive": int(positive.sum()),
        "num_negative": int(negative.sum()),
        "operating_points": points,
        "area_under_roc": float(-np.trapezoid(true_accepts, false_accepts)),
        "equal_error_rate": float((false_accepts[equal] + 1 - true_accepts[equal]) / 2),
        "histograms": {
            "edges": edges[:: BINS // _COARSE].tolist(),
            "positive": positive.reshape(_COARSE, -1).sum(1).tolist(),
            "negative": negative.reshape(_COARSE, -1).sum(1).tolist(),
        },
    }
