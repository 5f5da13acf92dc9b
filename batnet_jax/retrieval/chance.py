"""The figures that a random ranking reaches on average, computed exactly from counts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import digamma

from batnet_jax.retrieval.image_set import JUNK_PID, Labels, no_match
from batnet_jax.retrieval.matches import ItemLists, find_matches, keep_items, match_keys


def chance_figures(
    query: Labels,
    gallery: Labels,
    *,
    ap: str = "precision",
    same_camera: str = "remove",
    left_out: ItemLists | None = None,
    cmc_ranks: Sequence[int] = (1, 5, 10, 20),
) -> dict[str, Any]:
    """Return the expected figures of a gallery in random order.

    Args:
      query: of q images.
      gallery: of g images; junk is dropped.
      ap: the convention of average precision, see `metrics.average_precision`.
      same_camera: see `retrieval.evaluate`.
      left_out: gallery items that do not count, for each query; None for none.
      cmc_ranks: ranks at which to read the CMC curve.

    Returns: mAP, mINP and cmc, as `retrieval.evaluate` does.

    Raises: UserError if no query has a match.
    """
    kept = np.flatnonzero(gallery.pids != JUNK_PID)
    if left_out is not None:
        left_out = keep_items(left_out, kept, len(gallery))
    keys = match_keys(query, gallery.take(kept), same_camera)
    relevant, removed, others = find_matches(*keys, left_out)
    valid = relevant.counts > 0
    if not valid.any():
        raise no_match(len(query), len(kept))
    total = (len(kept) - removed.counts - others.counts)[valid]
    pairs, count = np.unique(np.stack([relevant.counts[valid], total]), axis=1, return_counts=True)
    hits, items = pairs.astype(np.float64)

    def mean(values: np.ndarray) -> float:
        return float(np.average(values, weights=count))

    return {
        "mAP": mean(expected_precision(hits, items, ap)),
        "mINP": mean(expected_penalty(hits, items)),
        "cmc": {str(k): mean(expected_hit(hits, items, k)) for k in cmc_ranks},
    }


def expected_precision(hits: np.ndarray, items: np.ndarray, ap: str) -> np.ndarray:
    """Return the expected average precision of random rankings.

    A hit is at each rank k with the same probability. The ranks before it hold (k - 1) (R - 1) /
    (N - 1) other hits on average. The mean of the precision over k follows.

    Args:
      hits: [n] R, the number of a query's right items, at least 1.
      items: [n] N, the number of its items.
      ap: "precision" or "trapezoid".
    """
    others = (hits - 1) / np.maximum(items - 1, 1)
    harmonic = digamma(items + 1) - digamma(1)
    precision = (harmonic + (items - harmonic) * others) / items
    if ap == "precision":
        return precision
    before = (1 + (items - 1) * others) / items
    return (precision + before) / 2


def expected_hit(hits: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Return the probability that a random ranking has a hit among its first k; see above."""
    missed = np.ones(len(hits))
    for rank in range(min(k, int(items.max(initial=0)))):
        missed *= np.maximum(items - hits - rank, 0) / np.maximum(items - rank, 1)
    return 1 - missed


def expected_penalty(hits: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return the expected hits / rank of the last hit; see `metrics.inverse_negative_penalty`.

    The last hit is at rank m with probability C(m - 1, R - 1) / C(N, R). For R = 1 the expectation
    of 1 / m is H(N) / N. The expectation for R follows from the expectation for R - 1 by
    C(m - 1, R - 1) / m = C(m - 1, R - 2) (1 / (R - 1) - 1 / m). If over half of the items are
    right, this recursion would magnify rounding errors; the sum over m then has few terms, and is
    computed directly.
    """
    inverse = (digamma(items + 1) - digamma(1)) / items
    found = inverse.copy()
    rare = hits <= items / 2
    for r in range(2, int(hits[rare].max(initial=1)) + 1):
        inverse = r / np.maximum(items - r + 1, 1) * (1 / (r - 1) - inverse)
        found = np.where(hits == r, inverse, found)
    for i in np.flatnonzero(~rare):
        r, n = int(hits[i]), int(items[i])
        ranks = np.arange(n, r - 1, -1)  # from the most likely one down
        shrinks = (ranks[:-1] - r) / (ranks[:-1] - 1.0)
        found[i] = (r / n * np.cumprod(np.concatenate([[1.0], shrinks])) / ranks).sum()
    return hits * found
