"""Figures from ranks, computed on the host in float64; all are fractions, not per cent."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64


class Ranks(NamedTuple):
    """The 1-based ranks of each query's relevant items, query after query.

    The ranks of query q are values[offsets[q] : offsets[q + 1]], ascending. Removed items do not
    count. A query without relevant items has no ranks.
    """

    values: Int64[np.ndarray, " m"]
    offsets: Int64[np.ndarray, " q+1"]

    def of(self, query: int) -> Int64[np.ndarray, " r"]:
        """Return the ranks of one query."""
        return self.values[self.offsets[query] : self.offsets[query + 1]]


class PerQuery(NamedTuple):
    """The figures of each of q queries; see `per_query`."""

    first_rank: Int64[np.ndarray, " q"]  # 0 for a query without relevant items
    average_precision: Float64[np.ndarray, " q"]  # nan for such a query
    inverse_negative_penalty: Float64[np.ndarray, " q"]  # nan for such a query

    @property
    def valid(self) -> Bool[np.ndarray, " q"]:
        """Whether each query has a relevant item. Averages skip the other queries."""
        return self.first_rank > 0


def average_precision(ranks: np.ndarray, convention: str = "precision") -> float:
    """Return the area under one query's precision-recall curve.

    Args:
      ranks: [r] int, ascending, 1-based, r >= 1.
      convention: "precision": the mean of the precision at each hit. "trapezoid": as Market-1501's
        script (`compute_AP.m`): at each hit the mean of two precisions, at the hit and at the
        position before it. The precision at position 0 is 1.

    Returns: for hits at 1, 2, 4, 7: 0.8304 as "precision", 0.8110 as "trapezoid".
    """
    one = Ranks(np.asarray(ranks), np.array([0, len(ranks)]))
    return float(per_query(one, convention).average_precision[0])


def inverse_negative_penalty(ranks: np.ndarray) -> float:
    """Return hits / rank of the last hit: the share of right items in the list down to this hit.

    Ye et al., TPAMI 2021, Sec. 4.1 (mINP is its mean).
    """
    return len(ranks) / float(ranks[-1])


def per_query(ranks: Ranks, ap: str) -> PerQuery:
    """Return the figures of each query; `ap` is a convention of `average_precision`."""
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
    """Return the share of queries with a hit at rank k or before, for every k in `at`.

    Beyond the gallery's size the curve keeps its last value.
    """
    return {str(k): float(np.mean(first_ranks <= k)) for k in at}


def summarise(figures: PerQuery, *, ap: str, cmc_ranks: Sequence[int]) -> dict[str, Any] | None:
    """Average over the valid queries.

    Args:
      figures: of all queries.
      ap: the convention of the average precisions, copied to the result.
      cmc_ranks: ranks at which to read the CMC curve.

    Returns: num_valid_query, mAP, mINP, cmc, ap; None if no query is valid.
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
    """Average over each group of queries, for example over the queries of each camera.

    Args:
      figures: of all queries.
      groups: [q] int, the group of each query.
      cmc_ranks: as in `summarise`.

    Returns: for each group, ascending: num_query and the result of `summarise` without `ap`. The
      figures of a group without valid queries are None.
    """
    empty = {"num_valid_query": 0, "mAP": None, "mINP": None, "cmc": None}
    result = {}
    for group in np.unique(groups):
        own = PerQuery(*(field[groups == group] for field in figures))
        summary = summarise(own, ap="", cmc_ranks=cmc_ranks) or empty
        summary.pop("ap", None)
        result[str(group)] = {"num_query": len(own.first_rank), **summary}
    return result


def listed(figures: PerQuery) -> dict[str, list]:
    """Return the figures of each query as JSON stores them, with None for nan."""
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
    """Return confidence intervals (percentile bootstrap) of the averages over the valid queries.

    Whole identities are drawn, with replacement. Queries of one person are similar, so drawing
    single queries would make the intervals too narrow.

    Args:
      figures: of all queries.
      pids: [q] int.
      cmc_ranks: as in `summarise`.
      samples: the number of draws.
      seed: of the draws.
      level: the share of the samples within the interval.

    Returns: level, samples, and [low, high] for mAP, mINP and each cmc rank.
    """
    valid = figures.valid
    columns = [
        figures.average_precision[valid],
        figures.inverse_negative_penalty[valid],
        *(figures.first_rank[valid] <= k for k in cmc_ranks),
    ]
    means = bootstrap_means(np.stack(columns, 1), pids[valid], samples=samples, seed=seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    intervals = [[float(a), float(b)] for a, b in zip(low, high, strict=True)]
    return {
        "level": level,
        "samples": samples,
        "mAP": intervals[0],
        "mINP": intervals[1],
        "cmc": {str(k): i for k, i in zip(cmc_ranks, intervals[2:], strict=True)},
    }


def bootstrap_means(
    values: Float64[np.ndarray, "n k"],
    groups: Int64[np.ndarray, " n"],
    *,
    samples: int,
    seed: int,
) -> Float64[np.ndarray, "samples k"]:
    """Return the means of the rows in each of several draws of whole groups, with replacement.

    Args:
      values: n rows, n > 0.
      groups: the group of each row.
      samples: the number of draws.
      seed: of the draws.
    """
    _, group = np.unique(groups, return_inverse=True)
    columns = [np.ones(len(values)), *values.T]
    sums = np.stack([np.bincount(group, weights=column) for column in columns], 1)
    rng = np.random.default_rng(seed)
    means = np.empty((samples, values.shape[1]))
    for sample in range(samples):
        drawn = sums[rng.integers(0, len(sums), len(sums))].sum(0)
        means[sample] = drawn[1:] / drawn[0]
    return means
