"""From ranks to figures, on the host in float64. All are fractions, not per cent."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64


class Ranks(NamedTuple):
    """The 1-based ranks of every query's relevant items among the kept ones, one after the other.

    Those of query q are values[offsets[q] : offsets[q + 1]], ascending; none where nothing relevant
    is left.
    """

    values: Int64[np.ndarray, " m"]
    offsets: Int64[np.ndarray, " q+1"]

    def of(self, query: int) -> Int64[np.ndarray, " r"]:
        """The ranks of one query."""
        return self.values[self.offsets[query] : self.offsets[query + 1]]


class PerQuery(NamedTuple):
    """What each of q queries reaches; see `per_query`."""

    first_rank: Int64[np.ndarray, " q"]  # 0 where nothing relevant is left
    average_precision: Float64[np.ndarray, " q"]  # nan there
    inverse_negative_penalty: Float64[np.ndarray, " q"]  # nan there

    @property
    def valid(self) -> Bool[np.ndarray, " q"]:
        """Where something relevant is left. The others are skipped and not counted."""
        return self.first_rank > 0


def average_precision(ranks: np.ndarray, convention: str = "precision") -> float:
    """Area under one query's precision-recall curve.

    Args:
      ranks: [r] int, ascending, 1-based, r >= 1.
      convention: "precision": the mean of the precision at each hit. "trapezoid": Market-1501's
        own script (`compute_AP.m`): at each hit the mean of the precision there and at the
        position just before, where that of position 0 is 1.

    Returns: for hits at 1, 2, 4, 7: 0.8304 as "precision", 0.8110 as "trapezoid".
    """
    one = Ranks(np.asarray(ranks), np.array([0, len(ranks)]))
    return float(per_query(one, convention).average_precision[0])


def inverse_negative_penalty(ranks: np.ndarray) -> float:
    """Hits / rank of the last hit: what share of the list down to it is right.

    Ye et al., TPAMI 2021, Sec. 4.1 (mINP is its mean).
    """
    return len(ranks) / float(ranks[-1])


def per_query(ranks: Ranks, ap: str) -> PerQuery:
    """The figures of each query; `ap` as in `average_precision`."""
    counts = np.diff(ranks.offsets)
    valid = counts > 0
    starts, hits = ranks.offsets[:-1][valid], counts[valid]
    values = ranks.values.astype(np.float64)
    found = np.arange(1, len(values) + 1, dtype=np.float64) - np.repeat(starts, hits)
    area = found / values
    if ap == "trapezoid":
        before = np.where(values == 1, 1.0, (found - 1) / np.maximum(values - 1, 1))
        area = (before + area) / 2
    first = np.zeros(len(counts), np.int64)
    precision, penalty = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
    if valid.any():
        first[valid] = ranks.values[starts]
        precision[valid] = np.add.reduceat(area, starts) / hits
        penalty[valid] = hits / values[starts + hits - 1]
    return PerQuery(first, precision, penalty)


def cmc(first_ranks: np.ndarray, at: Sequence[int]) -> dict[str, float]:
    """Share of queries whose first hit is at rank k or before, for every k in `at`.

    Beyond the gallery's size the curve stays at its last value.
    """
    return {str(k): float(np.mean(first_ranks <= k)) for k in at}


def summarise(figures: PerQuery, *, ap: str, cmc_ranks: Sequence[int]) -> dict[str, Any] | None:
    """Averages over the valid queries.

    Args:
      figures: of every query.
      ap: the convention that they were made with; it is only named.
      cmc_ranks: ranks at which to read the CMC curve.

    Returns: num_valid_query, mAP, mINP, cmc, ap; None where no query is valid.
    """
    valid = figures.valid
    if not valid.any():
        return None
    return {
        "num_valid_query": int(valid.sum()),
        "mAP": float(figures.average_precision[valid].mean()),
        "mINP": float(figures.inverse_negative_penalty[valid].mean()),
        "cmc": cmc(figures.first_rank[valid], cmc_ranks),
        "ap": ap,
    }


def breakdown(
    figures: PerQuery, groups: Int64[np.ndarray, " q"], cmc_ranks: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """The averages of each group of queries, for example those of each camera.

    Args:
      figures: of every query.
      groups: [q] int, the group of each.
      cmc_ranks: as in `summarise`.

    Returns: for each group, ascending: num_query, and what `summarise` gives (without `ap`); where
      none of its queries is valid the figures are None.
    """
    nothing = {"num_valid_query": 0, "mAP": None, "mINP": None, "cmc": None}
    result = {}
    for group in np.unique(groups):
        own = PerQuery(*(field[groups == group] for field in figures))
        summary = summarise(own, ap="", cmc_ranks=cmc_ranks) or nothing
        summary.pop("ap", None)
        result[str(group)] = {"num_query": len(own.first_rank), **summary}
    return result


def listed(figures: PerQuery) -> dict[str, list]:
    """The figures of each query as JSON has them: None where it has no match."""
    return {
        name: [None if value != value else value for value in column.tolist()]
        for name, column in figures._asdict().items()
    }


def bootstrap(
    figures: PerQuery,
    pids: Int64[np.ndarray, " q"],
    *,
    cmc_ranks: Sequence[int],
    samples: int,
    seed: int,
    level: float = 0.95,
) -> dict[str, Any]:
    """Confidence intervals (percentile bootstrap) of the averages over the valid queries.

    Whole identities are drawn, with replacement: queries of one person are alike, and drawn singly
    they would make the interval too narrow.

    Args:
      figures: of every query.
      pids: [q] int.
      cmc_ranks: as in `summarise`.
      samples: how many times to draw.
      seed: of the draws.
      level: the share of the samples that lies within the interval.

    Returns: level, samples, and [low, high] for mAP, mINP and each cmc rank.
    """
    valid = figures.valid
    _, identity = np.unique(pids[valid], return_inverse=True)
    columns = [
        np.ones(valid.sum()),
        figures.average_precision[valid],
        figures.inverse_negative_penalty[valid],
        *(figures.first_rank[valid] <= k for k in cmc_ranks),
    ]
    sums = np.stack([np.bincount(identity, weights=column) for column in columns], 1)
    rng = np.random.default_rng(seed)
    means = np.empty((samples, len(columns) - 1))
    for sample in range(samples):
        drawn = sums[rng.integers(0, len(sums), len(sums))].sum(0)
        means[sample] = drawn[1:] / drawn[0]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    intervals = [[float(a), float(b)] for a, b in zip(low, high, strict=True)]
    return {
        "level": level,
        "samples": samples,
        "mAP": intervals[0],
        "mINP": intervals[1],
        "cmc": {str(k): i for k, i in zip(cmc_ranks, intervals[2:], strict=True)},
    }
