import itertools
import re

import numpy as np
import pytest

from batnet_jax.errors import UserError
from batnet_jax.retrieval import single_shot_cmc

# The query shows person 1, at 0, from camera 1. The gallery has person 1 at 1 and 6 (camera 2) and
# at 0 (camera 1: removed); person 2 at 2 and 9; person 3 at 5; junk at 0.
QUERY = dict(query_features=[[0.0]], query_pids=[1], query_cameras=[1])
GALLERY = dict(
    gallery_features=[[1.0], [6.0], [0.0], [2.0], [9.0], [5.0], [0.0]],
    gallery_pids=[1, 1, 1, 2, 2, 3, -1],
    gallery_cameras=[2, 2, 1, 1, 2, 2, 2],
)
CASE = QUERY | GALLERY


def test_the_mean_converges_to_the_expected_value():
    # Person 1 drawn at 1 has rank 1. Drawn at 6 it has rank 2 or 3: person 3 is ahead, and so is
    # person 2 if drawn at 2.
    ranks = [1 + sum(other < own for other in (two, 5)) for own in (1, 6) for two in (2, 9)]
    trials = 20_000
    got = single_shot_cmc(**CASE, metric="euclidean", trials=trials, cmc_ranks=(1, 2, 3))
    assert (got["num_query"], got["num_gallery"], got["num_valid_query"]) == (1, 6, 1)
    for k in (1, 2, 3):
        expected = np.mean([rank <= k for rank in ranks])
        # The tolerance is five standard errors.
        assert got["cmc"][str(k)] == pytest.approx(expected, abs=5 * 0.5 / trials**0.5)


def random_case(seed):
    rng = np.random.default_rng(seed)
    return dict(
        query_features=rng.integers(-2, 3, (20, 3)).astype(np.float32),
        query_pids=rng.integers(0, 7, 20),
        query_cameras=rng.integers(0, 2, 20),
        gallery_features=rng.integers(-2, 3, (50, 3)).astype(np.float32),
        gallery_pids=rng.integers(-1, 6, 50),
        gallery_cameras=rng.integers(0, 2, 50),
    )


@pytest.mark.parametrize("same_camera", ["remove", "keep"])
def test_mean_over_all_draws(same_camera):
    """The mean converges to the mean over all possible draws of a small case."""
    case = random_case(3)
    keep = np.arange(50) < 14
    case = {k: v[keep[: len(v)]] if k.startswith("gallery") else v[:4] for k, v in case.items()}
    pids = case["gallery_pids"]
    people = [np.flatnonzero(pids == p) for p in np.unique(pids[pids != -1])]
    shares = []
    for q, pid in enumerate(case["query_pids"]):
        distance = ((case["query_features"][q] - case["gallery_features"]) ** 2).sum(1)
        same = case["gallery_cameras"] == case["query_cameras"][q]
        pools = [
            [g for g in items if pids[g] != pid or same_camera == "keep" or not same[g]]
            for items in people
        ]
        right = [k for k, items in enumerate(people) if pids[items[0]] == pid]
        if not right or not pools[right[0]]:
            continue
        hits = []
        for drawn in itertools.product(*pools):
            order = sorted(drawn, key=lambda g: (distance[g], g))
            hits.append(order[0] == drawn[right[0]])
        shares.append(np.mean(hits))
    got = single_shot_cmc(
        **case, metric="euclidean", same_camera=same_camera, trials=20_000, cmc_ranks=(1,)
    )
    assert got["num_valid_query"] == len(shares)
    assert got["cmc"]["1"] == pytest.approx(np.mean(shares), abs=5 * 0.5 / 20_000**0.5)
    assert 0 < np.mean(shares) < 1


def test_draws_depend_on_the_seed_alone():
    case = random_case(0)
    got = single_shot_cmc(**case, trials=5, seed=1)
    assert single_shot_cmc(**case, trials=5, seed=1, block=3) == got
    assert single_shot_cmc(**case, trials=5, seed=2)["cmc"] != got["cmc"]
    calls = []
    single_shot_cmc(**case, block=8, progress=lambda *a: calls.append(a))
    assert calls[-1] == (got["num_valid_query"],) * 2


@pytest.mark.parametrize("far", [2**16, 2**32])
def test_names_of_identities_do_not_matter(far):
    case = random_case(4)
    renamed = {k: case[k] for k in ("query_pids", "gallery_pids")}
    renamed = {k: np.where(v == -1, -1, v * far - 9) for k, v in renamed.items()}
    assert single_shot_cmc(**case | renamed, trials=50) == single_shot_cmc(**case, trials=50)


def test_one_image_a_person_leaves_nothing_to_chance():
    features = np.eye(4, dtype=np.float32)
    pids = np.arange(4)
    got = single_shot_cmc(features, pids, None, features, pids, None, trials=3)
    assert got["cmc"] == {"1": 1, "5": 1, "10": 1, "20": 1}
    assert got["cmc_std"] == {"1": 0, "5": 0, "10": 0, "20": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(trials=0), "trials=0: must be an integer of at least 1"),
        (dict(cmc_ranks=(0,)), "cmc_ranks=0: must be an integer of at least 1"),
        (dict(cmc_ranks=5), "cmc_ranks=5: must be a list of integers, such as (1, 5, 10)"),
        (dict(metric="l2"), "metric='l2' is unknown"),
        (dict(same_camera="no"), "same_camera='no' is unknown"),
        (dict(query_pids=[9]), "none of the 1 queries has a match among the 6 gallery items"),
        (dict(query_features=[[np.nan]]), "query_features holds NaN"),
        (dict(gallery_pids=[1]), "gallery_pids has shape (1,)"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        single_shot_cmc(**CASE | change)
