"""Statistics of runs that were evaluated on the same queries, or trained with the same seeds.

Queries of one person are similar, so whole identities are drawn and flipped, with all their
queries. Drawing single queries would make intervals too narrow and p-values too small.

Sources:
  paired bootstrap, percentile interval: Efron and Tibshirani, An Introduction to the Bootstrap,
    1993, ch. 13; whole clusters are drawn: Davison and Hinkley, Bootstrap Methods and their
    Application, 1997, sec. 3.8.
  paired sign flips: Fisher, The Design of Experiments, 1935, sec. 21; for the APs of queries:
    Smucker, Allan and Carterette, CIKM 2007.
  p-values of drawn flips: Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010.
  correction for several tests: Holm, Scand. J. Statist. 6, 1979.
  interval of a mean of few values: Student, Biometrika 6, 1908.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import stdtrit

_BLOCK = 2**22
"""Numbers drawn at a time, which take 32 MiB."""


class Estimate(NamedTuple):
    """A mean and its interval, of each of m columns."""

    value: Float64[np.ndarray, " m"]
    low: Float64[np.ndarray, " m"]
    high: Float64[np.ndarray, " m"]


def paired_bootstrap(
    values: Float64[np.ndarray, "q m"],
    units: Int64[np.ndarray, " q"],
    *,
    samples: int,
    seed: int,
    level: float = 0.95,
) -> Estimate:
    """Return the mean of each column over the queries, and its percentile bootstrap interval.

    A sample draws as many units as there are, with replacement, each with all its queries. All
    columns have the same samples. A difference of two runs is a column, too.

    Args:
      values: a figure of q queries in m columns.
      units: [q], the unit that each query belongs to: its identity, or its own number.
      samples: the number of draws.
      seed: of the draws.
      level: the share of the samples within the interval.
    """
    sums, sizes = _sum_units(values, units)
    count = len(sizes)
    rng = np.random.default_rng(seed)
    means = np.empty((samples, values.shape[1]))
    rows = max(1, _BLOCK // count)
    for start in range(0, samples, rows):
        block = means[start : start + rows]
        drawn = rng.integers(0, count, (len(block), count))
        drawn += count * np.arange(len(block))[:, None]
        times = np.bincount(drawn.ravel(), minlength=len(block) * count).reshape(len(block), count)
        times = times.astype(np.float64)
        block[:] = (times @ sums) / (times @ sizes)[:, None]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Estimate(values.mean(0), low, high)


def sign_flip_test(
    differences: Float64[np.ndarray, "q m"],
    units: Int64[np.ndarray, " q"],
    *,
    samples: int,
    seed: int,
) -> Float64[np.ndarray, " m"]:
    """Return the two-sided p-value of the mean of each column being 0.

    If two runs are equally good, a unit's difference is as likely to have one sign as the other.
    The p-value is the share of flipped signs whose mean is at least as far from 0. All flips are
    tried if they are no more than `samples`. Otherwise `samples` flips are drawn, and the observed
    signs count as one more.

    Args:
      differences: of q queries in m columns.
      units: see `paired_bootstrap`; a unit's queries flip together.
      samples: the number of draws.
      seed: of the draws.
    """
    sums, _ = _sum_units(differences, units)
    # Flips that tie with the observed signs must count whatever the order of additions.
    least = np.abs(sums.sum(0)) - 1e-9 * np.abs(sums).sum(0)
    few = (sums != 0).sum(0) <= np.log2(samples)
    p_values = np.ones(len(least))
    for column in np.flatnonzero(few):
        p_values[column] = _try_all_flips(sums[:, column], least[column])
    reached = _draw_flips(sums[:, ~few], least[~few], samples, seed)
    p_values[~few] = (reached + 1) / (samples + 1)
    return p_values


def _try_all_flips(sums: np.ndarray, least: float) -> float:
    """Return the share of all flips of the sums, [n], whose total is at least `least` from 0."""
    sums = sums[sums != 0]
    number = np.arange(2 ** len(sums))[:, None]
    signs = 1.0 - 2.0 * (number >> np.arange(len(sums)) & 1)
    return float((np.abs(signs @ sums) >= least).mean())


def _draw_flips(sums: np.ndarray, least: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Count, for each column of the sums, the drawn flips whose total is at least `least` from 0.

    Args:
      sums: [n, m].
      least: [m].
      samples: the number of draws.
      seed: of the draws.
    Returns: [m] int.
    """
    rng = np.random.default_rng(seed)
    reached = np.zeros(sums.shape[1], np.int64)
    rows = max(1, _BLOCK // len(sums))
    for start in range(0, samples if len(reached) else 0, rows):
        size = (min(rows, samples - start), len(sums))
        signs = 1.0 - 2.0 * rng.integers(0, 2, size, dtype=np.int8)
        reached += (np.abs(signs @ sums) >= least).sum(0)
    return reached


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of several tests, corrected for their number (Holm)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, highest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = highest
    return corrected


def compare_seeds(differences: Sequence[float], level: float = 0.95) -> dict[str, Any]:
    """Return the mean difference of runs with the same seeds, with an interval and a p-value.

    Args:
      differences: one for each seed; at least two.
      level: of the interval.

    Returns: mean, std (n - 1), [low, high] of Student's interval, and p of all flipped signs: with
      n seeds no p is below 2 / 2**n. Flips are drawn from 14 seeds on.
    """
    values = np.asarray(differences, np.float64)
    n = len(values)
    mean, std = float(values.mean()), float(values.std(ddof=1))
    reach = float(stdtrit(n - 1, (1 + level) / 2)) * std / n**0.5
    p = sign_flip_test(values[:, None], np.arange(n), samples=10_000, seed=0)
    return {"mean": mean, "std": std, "low": mean - reach, "high": mean + reach, "p": float(p[0])}


def _sum_units(values: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of each unit's values, [n, m], and the number of its queries, [n]."""
    _, unit = np.unique(units, return_inverse=True)
    sums = [np.bincount(unit, weights=column) for column in values.T]
    return np.stack(sums, axis=1), np.bincount(unit).astype(np.float64)
