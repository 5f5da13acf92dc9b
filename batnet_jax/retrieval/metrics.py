"""From ranks to figures, on the host in float64. All are fractions, not per cent.

A query's `ranks` are the 1-based ranks of its relevant items among the kept ones, ascending, at
least one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def average_precision(ranks: np.ndarray, convention: str = "precision") -> float:
    """Area under one query's precision-recall curve.

    Args:
      ranks: [r] int, ascending, 1-based, r >= 1.
      convention: "precision": the mean of the precision at each hit. "trapezoid": Market-1501's
        own script (`compute_AP.m`): at each hit the mean of the precision there and at the
        position just before, where that of position 0 is 1.

    Returns: for hits at 1, 2, 4, 7: 0.8304 as "precision", 0.8110 as "trapezoid".
    """
    found = np.arange(1, len(ranks) + 1, dtype=np.float64)
    at_hit = found / ranks
    if convention == "precision":
        return float(at_hit.mean())
    before = np.where(ranks == 1, 1.0, (found - 1) / np.maximum(ranks - 1, 1))
    return float(((before + at_hit) / 2).mean())


def inverse_negative_penalty(ranks: np.ndarray) -> float:
    """Hits / rank of the last hit: what share of the list down to it is right.

    Ye et al., TPAMI 2021, Sec. 4.1 (mINP is its mean).
    """
    return len(ranks) / float(ranks[-1])


def cmc(first_ranks: np.ndarray, at: Sequence[int]) -> dict[str, float]:
    """Share of queries whose first hit is at rank k or before, for every k in `at`.

    Beyond the gallery's size the curve stays at its last value.
    """
    return {str(k): float(np.mean(first_ranks <= k)) for k in at}


def summarise(
    ranks: Sequence[np.ndarray], *, ap: str, cmc_ranks: Sequence[int]
) -> dict[str, Any] | None:
    """Average over the queries; those without a relevant item are skipped and not counted.

    Args:
      ranks: one ascending array a query, empty where nothing relevant is left.
      ap: "precision" or "trapezoid", see `average_precision`.
      cmc_ranks: ranks at which to read the CMC curve.

    Returns: num_valid_query, mAP, mINP, cmc, ap; None where no query is valid.
    """
    valid = [r for r in ranks if len(r)]
    if not valid:
        return None
    return {
        "num_valid_query": len(valid),
        "mAP": float(np.mean([average_precision(r, ap) for r in valid])),
        "mINP": float(np.mean([inverse_negative_penalty(r) for r in valid])),
        "cmc": cmc(np.array([r[0] for r in valid]), cmc_ranks),
        "ap": ap,
    }
