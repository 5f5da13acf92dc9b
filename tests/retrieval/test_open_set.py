"""Open-set identification, by an oracle in float64 that sorts each query's gallery."""

import json
import re

import numpy as np
import pytest

from batnet_jax.errors import UserError
from batnet_jax.retrieval import evaluate, identify

RATES = (0.03, 0.1, 0.29, 0.5, 0.9)


def random_case(seed, known=6):
    """30 queries of 6 people, of whom the gallery knows some."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, 5))
    pids, gallery_pids = rng.integers(0, 6, 30), rng.integers(-1, known, 80)

    def features(people):
        return (centres[people] + rng.normal(size=(len(people), 5))).astype(np.float32)

    return dict(
        query_features=features(pids), query_pids=pids, query_cameras=rng.integers(0, 3, 30),
        gallery_features=features(gallery_pids), gallery_pids=gallery_pids,
        gallery_cameras=rng.integers(0, 3, 80),
    )  # fmt: skip


def oracle(case, metric, same_camera, unmated, ignore=None):
    """Return (score, rank of the best mate) of queries with mates, and scores of those without."""
    known, unknown = [], []
    for q, feature in enumerate(case["query_features"].astype(float)):
        items = []  # (minus the score, gallery index, whether it is a mate)
        in_gallery = False
        for g, other in enumerate(case["gallery_features"].astype(float)):
            pid = case["gallery_pids"][g]
            own = pid == case["query_pids"][q]
            in_gallery |= bool(own)
            same = case["query_cameras"][q] == case["gallery_cameras"][g]
            if pid == -1 or (own and same and same_camera == "remove"):
                continue
            if ignore is not None and g in ignore[q]:
                continue
            cosine = feature @ other / np.linalg.norm(feature) / np.linalg.norm(other)
            score = cosine if metric == "cosine" else -np.linalg.norm(feature - other)
            items.append((-score, g, bool(own)))
        items.sort()
        mates = [(-score, rank) for rank, (score, _, own) in enumerate(items, 1) if own]
        if mates:
            known.append(mates[0])
        if (unmated == "given" and not in_gallery) or (unmated == "removed" and mates):
            unknown.append(max(-score for score, _, own in items if not own))
    return known, unknown


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("same_camera", ["remove", "keep"])
@pytest.mark.parametrize("unmated", ["given", "removed"])
@pytest.mark.parametrize("seed", [0, 1])
def test_against_the_oracle(metric, same_camera, unmated, seed):
    case = random_case(seed, known=4)
    ignore = [[q, q + 1, 2 * q] for q in range(30)] if seed else None
    known, unknown = oracle(case, metric, same_camera, unmated, ignore)
    got = identify(
        **case, metric=metric, same_camera=same_camera, unmated=unmated, ignore=ignore,
        false_alarm_rates=RATES, ranks=(1, 3, 80), block=7,
    )  # fmt: skip
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    assert got["unmated"] == unmated
    assert (got["num_mated"], got["num_unmated"]) == (len(known), len(unknown))
    assert got["num_gallery"] == (case["gallery_pids"] >= 0).sum()
    scores = np.array(sorted(unknown))
    sign = 1 if metric == "cosine" else -1
    for point in got["operating_points"]:
        threshold = sign * point["threshold"]
        # Just above the lowest score that must not be reached; float32 moves it by rounding.
        allowed = int(np.floor(point["wanted_false_alarm_rate"] * len(scores) + 1e-9))
        assert threshold == pytest.approx(scores[len(scores) - 1 - allowed], abs=1e-5)
        threshold = scores[len(scores) - 1 - allowed] + 1e-9  # in float64, for exact counts
        assert point["false_alarm_rate"] == pytest.approx((scores >= threshold).mean(), abs=1e-12)
        assert point["false_alarm_rate"] <= point["wanted_false_alarm_rate"]
        assert point["resolved"] == (point["wanted_false_alarm_rate"] * len(scores) >= 1)
        for k in (1, 3, 80):
            rate = np.mean([score >= threshold and rank <= k for score, rank in known])
            assert point["dir"][str(k)] == pytest.approx(rate, abs=1e-12)
    assert {point["resolved"] for point in got["operating_points"]} == {True, False}


def test_by_hand():
    """Cosines: query 1 finds its mate at 0.8 behind a stranger at 1; query 2 at 0.6; 3 has none."""
    case = dict(
        query_features=[[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]],
        query_pids=[1, 2, 3],
        gallery_features=[[4, 0, 3], [2, 0, 0], [8, 6, 0]],  # of person 1, a stranger, person 2
        gallery_pids=[1, 9, 2],
    )
    got = identify(**case, false_alarm_rates=(0.5,), ranks=(1, 2))
    assert (got["num_mated"], got["num_unmated"], got["unmated"]) == (2, 1, "given")
    (point,) = got["operating_points"]
    assert 0.6 < point["threshold"] < 0.6001  # query 3 scores 0.6 with the image of person 1
    assert (point["false_alarm_rate"], point["resolved"]) == (0, False)
    # Query 1 scores 0.8, at rank 2; query 2 scores 0.6 at rank 1, which is not above 0.6.
    assert point["dir"] == {"1": 0, "2": 0.5}


def test_without_a_threshold_it_is_the_cmc():
    """A wanted rate near 1 lets nearly all through."""
    case = random_case(3)
    case["query_features"] = np.concatenate([case["query_features"]] * 2)
    for name in ("query_pids", "query_cameras"):
        case[name] = np.concatenate([case[name]] * 2)
    got = identify(**case, false_alarm_rates=(0.999999,), ranks=(1, 5))
    cmc = evaluate(**case)["cmc"]
    assert got["unmated"] == "removed"  # all six people are in the gallery
    for k, share in got["operating_points"][0]["dir"].items():
        assert share <= cmc[k] < share + 0.2
    assert got["operating_points"][0]["dir"]["5"] > 0.5


def test_progress_and_block():
    case, calls = random_case(1), []
    got = identify(**case, block=8, progress=lambda *a: calls.append(a))
    assert calls == [(8, 30), (16, 30), (24, 30), (30, 30)]
    assert identify(**case) == got


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(false_alarm_rates=(1,)), "false_alarm_rates=1: each must be between 0 and 1"),
        (dict(ranks=(0,)), "ranks=0: must be an integer"),
        (dict(unmated="all"), "unmated='all' is unknown"),
        (dict(query_pids=[7, 8]), "no query has a mate in the gallery"),
        (dict(unmated="given"), "every query has its identity in the gallery"),
        (dict(gallery_pids=[1, 1], query_pids=[1, 1]), "no image of another person"),
        (dict(gallery_pids=[-1, -1]), "no query has a mate"),
        (dict(query_features=[[np.nan], [1.0]]), "query_features holds NaN"),
        (dict(block=0), "block=0: must be an integer"),
    ],
)
def test_refusals(change, message):
    case = dict(
        query_features=[[1.0], [-1.0]], query_pids=[1, 2],
        gallery_features=[[1.0], [-1.0]], gallery_pids=[1, 2],
    )  # fmt: skip
    assert identify(**case)["operating_points"][0]["dir"]["1"] == 1
    with pytest.raises(UserError, match=re.escape(message)):
        identify(**case | change)
