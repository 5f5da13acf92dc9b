"""`evaluate` compared with an oracle and with cases worked by hand."""

import csv
import itertools
import json
import re

import numpy as np
import pytest
from support import needs
from support import retrieval_oracle as oracle
from support.evaluator_cases import SHAPES, random_case

from batnet_jax.errors import UserError
from batnet_jax.retrieval import evaluate, metrics, top_k
from batnet_jax.retrieval.image_set import ImageSet, Labels
from batnet_jax.retrieval.scores import block_scores, block_size
from batnet_jax.retrieval.streaming.ranks import relevant_ranks


def assert_same(got, expected):
    assert list(got) == list(expected)
    exact = ("num_query", "num_gallery", "num_valid_query", "ap")
    assert {k: got[k] for k in exact} == {k: expected[k] for k in exact}
    # The ranks are the same integers; only the order of float64 sums differs.
    for key in ("mAP", "mINP"):
        assert got[key] == pytest.approx(expected[key], rel=1e-12, abs=0)
    assert got["cmc"] == pytest.approx(expected["cmc"], rel=1e-12, abs=0)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_oracle(shape, metric):
    refused = 0
    settings = itertools.product(("precision", "trapezoid"), ("remove", "keep"), range(12))
    for number, (ap, same_camera, _) in enumerate(settings):
        case = random_case(number, shape, metric)
        if number % 5 == 4:
            case = (*case[:2], None, *case[3:5], None)
        options = {"metric": metric, "ap": ap, "same_camera": same_camera}
        expected = oracle.evaluate(*case, **options)
        if expected is None:
            refused += 1
            with pytest.raises(UserError, match="has a match"):
                evaluate(*case, **options, block=shape[-1])
        else:
            assert_same(evaluate(*case, **options, block=shape[-1]), expected)
    assert refused < 24  # of 48


def test_average_precision_by_hand():
    ranks = np.array([1, 2, 4, 7])
    # precision: (1/1 + 2/2 + 3/4 + 4/7) / 4
    assert metrics.average_precision(ranks) == pytest.approx(0.8304, abs=5e-5)
    # trapezoid: ((1 + 1) + (1/1 + 2/2) + (2/3 + 3/4) + (3/6 + 4/7)) / 2 / 4
    assert metrics.average_precision(ranks, "trapezoid") == pytest.approx(0.8110, abs=5e-5)
    assert metrics.inverse_negative_penalty(ranks) == pytest.approx(4 / 7)
    assert metrics.average_precision(np.array([3])) == pytest.approx(1 / 3)
    assert metrics.average_precision(np.array([3]), "trapezoid") == pytest.approx(1 / 6)
    assert metrics.average_precision(np.array([1]), "trapezoid") == 1
    assert metrics.inverse_negative_penalty(np.array([1, 2, 3])) == 1


def test_a_whole_evaluation_by_hand():
    # Points on a line.
    gallery = np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [0.5]])
    pids = np.array([7, 8, 7, -1, 0, 7, 8])
    cameras = np.array([1, 2, 2, 2, 2, 3, 1])
    # Query 0 (7, camera 1) at 0: items 6 wrong, 0 removed, 1 wrong, 2 RIGHT at 3, 3 junk,
    # 4 wrong (distractor), 5 RIGHT at 5. AP = (1/3 + 2/5) / 2 = 11/30, INP = 2/5.
    # Query 1 (8, camera 2) at 1.9: 1 removed, 0 wrong, 2 wrong, 6 RIGHT at 3: AP = INP = 1/3.
    # Query 2 (9): not in the gallery, skipped.
    got = evaluate(
        [[0.0], [1.9], [0.0]], [7, 8, 9], [1, 2, 1], gallery, pids, cameras,
        metric="euclidean", cmc_ranks=(1, 2, 3, 100),
    )  # fmt: skip
    assert got == {
        "num_query": 3,
        "num_gallery": 6,
        "num_valid_query": 2,
        "mAP": pytest.approx((11 / 30 + 1 / 3) / 2),
        "mINP": pytest.approx((2 / 5 + 1 / 3) / 2),
        "cmc": {"1": 0.0, "2": 0.0, "3": 1.0, "100": 1.0},
        "ap": "precision",
    }
    assert json.loads(json.dumps(got)) == got  # plain Python values
    kept = evaluate(
        [[0.0]], [7], [1], gallery, pids, cameras,
        metric="euclidean", same_camera="keep",
    )  # fmt: skip
    assert kept["mAP"] == pytest.approx((1 / 2 + 2 / 4 + 3 / 6) / 3)  # item 0 now has rank 2


def first_rank(gallery, pids, metric="cosine", query=((1.0,),)):
    cmc = evaluate(query, [1], None, gallery, pids, None, metric=metric, cmc_ranks=(1, 2, 3))["cmc"]
    return 4 - sum(round(v) for v in cmc.values())


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_ties_go_to_the_lower_gallery_index(metric):
    # All scores are equal; ties broken the other way would give 3, 2, 1.
    same = np.ones((3, 1))
    assert first_rank(same, [1, 2, 2], metric) == 1
    assert first_rank(same, [2, 1, 2], metric) == 2
    assert first_rank(same, [2, 2, 1], metric) == 3


def test_minus_zero_is_zero():
    # -1 x 0 = -0 and -1 x -0 = +0: equal scores.
    score = block_scores(np.float32([[-1]]), np.float32([[0]]), np.float32([-0.0]))
    assert not np.signbit(score)
    zeros = np.array([[0.0], [-0.0], [0.0]])
    for query in (((1.0,),), ((-1.0,),)):
        assert [first_rank(zeros, p, query=query) for p in ([1, 2, 2], [2, 1, 2], [2, 2, 1])] == [
            1, 2, 3,
        ]  # fmt: skip
        indices, _ = top_k(query, zeros, 3)
        np.testing.assert_array_equal(indices, [[0, 1, 2]])


def test_cosine_does_not_depend_on_length_and_euclidean_does():
    query, gallery = [[1.0, 0.0]], [[9.0, 9.0], [0.001, 0.0]]
    pids = dict(query_pids=[1], query_cameras=None, gallery_pids=[2, 1], gallery_cameras=None)
    for scale in (1e-30, 1.0, 1e30):  # squares of both ends are beyond float32
        scaled = (np.array(gallery) * scale).astype(np.float32)
        features = dict(query_features=query, gallery_features=scaled)
        assert evaluate(**features, **pids)["cmc"]["1"] == 1
    features = dict(query_features=query, gallery_features=[[1.0, 0.2], [9.0, 0.0]])
    assert evaluate(**features, **pids)["cmc"]["1"] == 1
    assert evaluate(**features, **pids, metric="euclidean")["cmc"]["1"] == 0


def test_ids_may_take_all_of_64_bits():
    big = 2**32  # as int32 these would be 1 and 1
    got = evaluate([[1.0]], [big + 1], [big], [[1.0], [0.5]], [1, big + 1], [0, 2 * big])
    assert got["cmc"]["1"] == 0
    assert got["cmc"]["5"] == 1


def test_junk_by_a_mask_is_junk_by_its_pid():
    """Also if the junk would have been a match, and with junk of both kinds."""
    case = random_case(1, SHAPES[2], "cosine")
    junk = np.random.default_rng(0).random(len(case[4])) < 0.3
    pids = np.where(junk, -1, case[4])
    assert (case[4] == -1).any()
    got = evaluate(*case, junk=junk)
    assert got == evaluate(*case[:4], pids, case[5])
    assert got != evaluate(*case)


def test_block_and_progress_do_not_change_the_result():
    case = (*random_case(1, SHAPES[2], "cosine")[:5], np.arange(100, 140))  # no shared camera
    calls = []
    got = evaluate(*case, chunk=8, progress=lambda *a: calls.append(a))
    assert calls[-1] == (35, 35)  # 40 items without 5 of junk
    assert calls == sorted(set(calls))
    assert evaluate(*case) == got
    assert evaluate(*case, block=64, chunk=1) == got


def test_blocks_are_bounded():
    assert block_size(11_659, 82_161) * 82_161 <= 2**24
    assert block_size(3, 100) == 3
    assert block_size(10**6, 10) == 1024
    assert block_size(5, 2**25) == 1


@pytest.mark.slow
def test_market1501_lists():
    def ids(split):
        with open(needs.shared("protocols", "market1501", f"{split}.csv"), newline="") as file:
            names = [row[1].rsplit("/", 1)[-1] for row in csv.reader(file)]
        found = [re.match(r"(-?\d+)_c(\d)", name).groups() for name in names]
        return np.array(found, dtype=np.int64).T

    query_pids, query_cameras = ids("query")
    gallery_pids, gallery_cameras = ids("test")
    rng = np.random.default_rng(0)
    centres = rng.integers(-3, 4, (1502, 8))

    def features(pids):  # integers: scores are exact, ties are many
        return (centres[pids] + rng.integers(-3, 4, (len(pids), 8))).astype(np.float32)

    case = [features(query_pids), query_pids, query_cameras]
    case += [features(gallery_pids), gallery_pids, gallery_cameras]
    whole = evaluate(*case, metric="euclidean", ap="trapezoid")
    assert (whole["num_query"], whole["num_gallery"]) == (3368, 15_913)
    assert whole["num_valid_query"] == 3368

    options = {"metric": "euclidean", "same_camera": "remove"}
    real = np.flatnonzero(gallery_pids != -1)
    query = ImageSet(case[0], query_pids, query_cameras)
    gallery = Labels(gallery_pids[real], gallery_cameras[real])
    ranks = relevant_ranks(query, gallery, lambda rows: case[3][real[rows]], **options)
    for ap in ("precision", "trapezoid"):
        ours = metrics.summarise(metrics.per_query(ranks, ap), ap=ap, cmc_ranks=(1, 5, 10, 20))
        if ap == "trapezoid":
            assert ours == {k: whole[k] for k in ours}
    for q in rng.choice(3368, 25, replace=False):
        matches = oracle.ranked_matches(
            oracle.similarity(case[0][q], case[3], "euclidean"),
            query_pids[q],
            query_cameras[q],
            gallery_pids,
            gallery_cameras,
            keep=False,
        )
        np.testing.assert_array_equal(ranks.of(q), np.flatnonzero(matches) + 1)
        assert metrics.average_precision(ranks.of(q), "trapezoid") == pytest.approx(
            oracle.market_ap(matches), rel=1e-12
        )
