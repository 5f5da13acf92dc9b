"""The figures of a random order, against the mean over all orders."""

import itertools

import numpy as np
import pytest
from scipy.special import gammaln, logsumexp

from batnet_jax.errors import UserError
from batnet_jax.retrieval import Labels, evaluate, metrics
from batnet_jax.retrieval.chance import (
    chance_figures,
    expected_hit,
    expected_penalty,
    expected_precision,
)
from batnet_jax.retrieval.left_out import check_left_out

SIZES = [(r, n) for n in range(1, 10) for r in range(1, n + 1)]


@pytest.mark.parametrize(("hits", "items"), SIZES)
def test_every_order_of_a_small_gallery(hits, items):
    """Exact formulas: only rounding differs."""
    orders = [np.array(ranks) for ranks in itertools.combinations(range(1, items + 1), hits)]
    r, n = np.array([float(hits)]), np.array([float(items)])
    for ap in ("precision", "trapezoid"):
        slow = np.mean([metrics.average_precision(ranks, ap) for ranks in orders])
        assert expected_precision(r, n, ap)[0] == pytest.approx(slow, rel=1e-12)
    slow = np.mean([metrics.inverse_negative_penalty(ranks) for ranks in orders])
    assert expected_penalty(r, n)[0] == pytest.approx(slow, rel=1e-12)
    for k in (1, 2, 5, 20):
        slow = np.mean([ranks[0] <= k for ranks in orders])
        assert expected_hit(r, n, k)[0] == pytest.approx(slow, rel=1e-9)


@pytest.mark.parametrize("hits", [1, 60, 9_000, 10_001, 19_999])
def test_both_ways_to_the_penalty_agree(hits):
    """The sum over all ranks of the last hit, in logarithms."""
    items = 20_000
    m = np.arange(hits, items + 1, dtype=float)
    log = gammaln(m) - gammaln(hits) - gammaln(m - hits + 1) - np.log(m)
    log_all = gammaln(items + 1) - gammaln(hits + 1) - gammaln(items - hits + 1)
    slow = hits * np.exp(logsumexp(log) - log_all)
    found = expected_penalty(np.array([float(hits)]), np.array([float(items)]))[0]
    assert found == pytest.approx(slow, rel=1e-7)  # the logarithms lose digits


def test_random_features_reach_it_on_average(rng):
    """200 evaluations of random features; the mean's error is some 2 % of it."""
    pids, cameras = rng.integers(0, 6, 40), rng.integers(0, 3, 40)
    labels = [Labels(pids[:10], cameras[:10]), Labels(pids[10:], cameras[10:])]
    chance = chance_figures(*labels)
    found = [
        evaluate(
            rng.normal(size=(10, 8)), pids[:10], cameras[:10],
            rng.normal(size=(30, 8)), pids[10:], cameras[10:],
        )
        for _ in range(200)
    ]  # fmt: skip
    for name in ("mAP", "mINP"):
        assert chance[name] == pytest.approx(np.mean([f[name] for f in found]), rel=0.08)
    for k, share in chance["cmc"].items():
        assert share == pytest.approx(np.mean([f["cmc"][k] for f in found]), rel=0.08)


def test_removed_left_out_and_junk_items_do_not_count():
    """Of five items one is junk, one of the own camera, one left out; one of two is right."""
    query = Labels(np.array([3]), np.array([1]))
    gallery = Labels(np.array([3, 3, 4, 4, -1]), np.array([1, 2, 1, 1, 1]))
    left_out = check_left_out(1, 5, ignore=[3])
    found = chance_figures(query, gallery, left_out=left_out)
    assert found["mAP"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["cmc"] == pytest.approx({"1": 0.5, "5": 1, "10": 1, "20": 1})
    kept = chance_figures(query, gallery, left_out=left_out, same_camera="keep")
    assert kept["cmc"]["1"] == pytest.approx(2 / 3)


def test_queries_without_a_match_are_skipped():
    cameras = np.zeros(3, int)
    query, gallery = Labels(np.array([1, 9]), None), Labels(np.array([1, 2, 2]), None)
    assert chance_figures(query, gallery)["cmc"]["1"] == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="none of the 1 queries has a match"):
        chance_figures(Labels(np.array([9]), cameras[:1]), Labels(np.array([1, 2, 2]), cameras))
