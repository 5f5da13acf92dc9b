"""Sets searched in themselves, and lists of gallery items that single queries ignore."""

import warnings

import numpy as np
import pytest
from support import rerank_oracle, retrieval_oracle
from support.evaluator_cases import make_case, rank

from batnet_jax.errors import UserError
from batnet_jax.retrieval import (
    ImageSet,
    KReciprocal,
    SameImageWarning,
    camera_pairs,
    check_left_out,
    evaluate,
    evaluate_reranked,
    first_places,
    single_shot_cmc,
    verify,
)
from batnet_jax.retrieval.streaming import chunk_cache, count_methods

ALL = (evaluate, evaluate_reranked, verify, single_shot_cmc)


def one_set(seed=0, images=30, people=5):
    """Return a set searched in itself: features that are not discrete, and pids."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((images, 6)).astype(np.float32), rng.integers(0, people, images)


def in_itself(features, pids, cameras=None):
    return features, pids, cameras, features, pids, cameras


@pytest.mark.parametrize("ap", ["precision", "trapezoid"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_leave_one_out_against_the_oracle(metric, ap):
    features, pids = one_set()
    own = np.arange(len(pids))
    expected = retrieval_oracle.evaluate(
        *in_itself(features, pids),
        metric=metric, ap=ap, same_camera="remove", ignored=[{q} for q in own],
    )  # fmt: skip
    names = np.array([f"image {k}" for k in own])
    for left_out in (
        {"ignore": own},
        {"ignore": own[:, None]},
        {"ignore": [[k] for k in own]},
        {"ignore": np.eye(len(own), dtype=bool)},
        {"query_ids": own + 7, "gallery_ids": own + 7},
        {"query_ids": names, "gallery_ids": list(names)},
        {"query_ids": own.astype(np.uint64), "gallery_ids": own},
    ):
        got = evaluate(*in_itself(features, pids), metric=metric, ap=ap, **left_out)
        assert got.pop("num_left_out") == len(own)
        assert got == {
            k: pytest.approx(v, rel=1e-9) if k != "ap" else v for k, v in expected.items()
        }
    with pytest.warns(SameImageWarning):
        assert evaluate(*in_itself(features, pids), metric=metric, ap=ap)["mAP"] > expected["mAP"]


@pytest.mark.parametrize("method", ["windows", "triton", "mosaic", "sums"])
@pytest.mark.parametrize("cached", [True, False])
def test_any_items_of_any_chunk_may_be_ignored(method, cached, monkeypatch):
    """Most scores have ties, and the gallery has several chunks, so hidden items lie in others."""
    monkeypatch.setattr(count_methods, "counting_method", lambda: method)
    if not cached:
        monkeypatch.setattr(chunk_cache, "_CPU_BYTES", 0)
    for seed in range(3):
        rng, case = make_case(seed, ties=True)
        case["gallery_pids"][:5] = -1
        num_query, num_gallery = len(case["query_pids"]), len(case["gallery_pids"])
        mask = rng.random((num_query, num_gallery)) < rng.choice([0.02, 0.5], (num_query, 1))
        expected = retrieval_oracle.evaluate(
            **case, metric="euclidean", ap="precision", same_camera="remove",
            cmc_ranks=(1, 2, 3, 5, 10, 50, 200), ignored=[set(np.flatnonzero(row)) for row in mask],
        )  # fmt: skip
        expected["num_left_out"] = mask[:, case["gallery_pids"] != -1].sum()
        expected = {k: pytest.approx(v) if k != "ap" else v for k, v in expected.items()}
        lists = [np.flatnonzero(row).tolist() for row in mask]
        for sizes in ({}, {"block": 8, "chunk": 64}):
            assert rank(case, ignore=mask, **sizes) == expected
            assert rank(case, ignore=lists, **sizes) == expected


def test_ids_and_lists_add_up():
    features, pids = one_set()
    own, rng = np.arange(len(pids)), np.random.default_rng(1)
    more = rng.random((len(own), len(own))) < 0.2
    both = evaluate(*in_itself(features, pids), query_ids=own, gallery_ids=own, ignore=more)
    assert both == evaluate(*in_itself(features, pids), ignore=more | np.eye(len(own), dtype=bool))


def test_reranked_against_the_dense_original():
    features, pids = one_set()
    settings = KReciprocal(k1=8, k2=3, weight=0.3)
    rows = rerank_oracle.final_distances(features, features, metric="cosine", **settings._asdict())
    aps = []
    for q, row in enumerate(rows):
        matches = retrieval_oracle.ranked_matches(
            -row, pids[q], None, pids, None, keep=True, ignored={q, (q + 1) % len(pids)}
        )
        aps.append(retrieval_oracle.precision_ap(matches))
    ignore = np.stack([np.arange(len(pids)), np.roll(np.arange(len(pids)), -1)], 1)
    got = evaluate_reranked(*in_itself(features, pids), settings=settings, ignore=ignore)
    assert got["mAP"] == pytest.approx(np.mean(aps), abs=1e-9)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_pairs_of_verification(metric):
    features, pids = one_set()
    ignore = np.stack([np.arange(len(pids)), np.roll(np.arange(len(pids)), -1)], 1)
    got = verify(*in_itself(features, pids), metric=metric, ignore=ignore)
    same = [pids[q] == pids[g] for q in range(30) for g in range(30) if g not in (q, (q + 1) % 30)]
    assert (got["num_positive"], got["num_negative"]) == (sum(same), len(same) - sum(same))
    f = features.astype(float)
    units = f / np.linalg.norm(f, axis=1, keepdims=True)
    scores = units @ units.T if metric == "cosine" else -np.linalg.norm(f[:, None] - f, axis=2)
    kept = np.array([[g not in (q, (q + 1) % 30) for g in range(30)] for q in range(30)])
    right = pids[:, None] == pids
    positive, negative = scores[kept & right], scores[kept & ~right]
    chance = (positive[:, None] > negative).mean()
    assert got["area_under_roc"] == pytest.approx(chance, abs=1e-3)


def test_single_shot_draws_among_the_items_that_count():
    # Person 1 at 0 (the query's own image) and 1; person 2 at 0.5 (ignored) and 3; person 3 at 0.2,
    # ignored altogether: the right one is first in every draw.
    arrays = [[0.0]], [1], None, [[0.0], [1.0], [0.5], [3.0], [0.2]], [1, 1, 2, 2, 3], None
    got = single_shot_cmc(*arrays, metric="euclidean", ignore=[[0, 2, 4]], trials=50)
    assert got["cmc"]["1"] == 1
    got = single_shot_cmc(*arrays, metric="euclidean", ignore=[[0, 4]], trials=2000, cmc_ranks=(1,))
    assert got["cmc"]["1"] == pytest.approx(0.5, abs=5 * 0.5 / 2000**0.5)  # five standard errors
    got = single_shot_cmc(*arrays, metric="euclidean", ignore=[0], trials=50, cmc_ranks=(1, 2))
    assert got["cmc"]["1"] == 0
    assert got["cmc"]["2"] < 1


def test_camera_pairs_and_lists_for_people():
    features, pids = one_set()
    cameras = np.arange(30) % 2
    images, own = ImageSet(features, pids, cameras), np.arange(30)
    left_out = check_left_out(30, 30, ignore=own)
    pairs = camera_pairs(images, images, same_camera="keep", left_out=left_out)
    for pair in pairs:
        q, g = (np.flatnonzero(cameras == pair[f"{k}_camera"]) for k in ("query", "gallery"))
        ignored = [{int(np.flatnonzero(g == one)[0])} if one in g else set() for one in q]
        expected = retrieval_oracle.evaluate(
            features[q], pids[q], None, features[g], pids[g], None,
            metric="cosine", ap="precision", same_camera="keep", ignored=ignored,
        )  # fmt: skip
        assert pair["mAP"] == pytest.approx(expected["mAP"])
    heads = first_places(images, images, same_camera="keep", left_out=left_out, places=3)
    for q, head in enumerate(heads):
        scores = retrieval_oracle.similarity(features[q], features, "cosine")
        order = [g for g in np.argsort(-scores) if g != q]
        assert [place.item for place in head.first] == order[:3]
        assert head.left_out == 0


@pytest.mark.parametrize("function", ALL)
def test_the_same_image_in_both_is_told(function):
    features, pids = one_set()
    query = features[3:5], pids[3:5], None
    gallery = features[:20], pids[:20], None
    with pytest.warns(
        SameImageWarning, match="2 of 2 queries.* query 0 and gallery image 3"
    ) as seen:
        function(*query, *gallery)
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function(*query, *gallery, ignore=[3, 4])
        function(features[20:], pids[20:], None, *gallery)
        cameras = np.arange(20)  # the rule of cameras leaves the own image out
        function(*query[:2], cameras[3:5], *gallery[:2], cameras)


def test_equal_features_that_do_not_count_are_not_told():
    features, pids = one_set()
    junk = np.where(np.arange(30) < 5, -1, pids)
    mask = np.arange(30) < 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(features[:5], pids[:5], None, features, junk, None)
        evaluate(features[:5], pids[:5], None, features, pids, None, junk=mask)
        evaluate(0 * features[:5], pids[:5], None, 0 * features, pids, None)  # zeros tell nothing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query_ids": [1, 2]}, "ids were given for only one"),
        ({"query_ids": [1], "gallery_ids": [1, 2, 3]}, "query_ids has dtype int64 and shape"),
        ({"query_ids": [1.5, 2], "gallery_ids": [1, 2, 3]}, "must be integers or strings"),
        ({"query_ids": ["a", "b"], "gallery_ids": [1, 2, 3]}, "both as integers"),
        ({"ignore": [3, 0]}, "ignore names the gallery item 3.* from 0 to 2"),
        ({"ignore": [-2, 0]}, "ignore names the gallery item -2"),
        ({"ignore": [0, 1, 2]}, "no entry for each query"),
        ({"ignore": 1}, "no entry for each query"),
        ({"ignore": [[0.5], [1]]}, "ignore holds"),
        ({"ignore": ["a", "b"]}, "ignore holds"),
        ({"ignore": np.zeros((2, 2), bool)}, r"a mask of shape \(2, 2\)"),
        ({"ignore": np.eye(2, 3, dtype=int)}, r"0 and 1 in shape \(2, 3\): if it is a mask"),
        ({"ignore": {2: [0]}}, "ignore has the key '2'"),
        ({"ignore": {"a.jpg": [0]}}, "ignore has the key 'a.jpg'"),
    ],
)
@pytest.mark.parametrize("function", ALL)
def test_refusals(function, arguments, message):
    features, pids = one_set()
    with pytest.raises(UserError, match=message):
        function(features[:2], pids[:2], None, features[2:5], pids[2:5], None, **arguments)


def test_lists_of_all_kinds():
    lists = check_left_out(4, 5, ignore=[[3, 1, 3], (), None, {-1, 2}])
    assert [lists.of(q).tolist() for q in range(4)] == [[1, 3], [], [], [2]]
    assert check_left_out(2, 3) is None
    lists = check_left_out(3, 5, ignore={1: [4, 0], 2: 3})  # by query, not the keys
    assert [lists.of(q).tolist() for q in range(3)] == [[], [0, 4], [3]]
    for same in (np.array([b"a", b"\xff"]), ["a", "\udcff"]):
        lists = check_left_out(2, 2, query_ids=["\udcff", "b"], gallery_ids=same)
        assert [lists.of(q).tolist() for q in range(2)] == [[1], []]
    lists = check_left_out(2, 1, query_ids=np.array([5, 7], object), gallery_ids=[5])
    assert [lists.of(q).tolist() for q in range(2)] == [[0], []]
    big = np.array([2**63 - 1, 2**63 - 2])
    lists = check_left_out(2, 2, query_ids=big, gallery_ids=big.astype(np.uint64))
    assert [lists.of(q).tolist() for q in range(2)] == [[0], [1]]


def test_nothing_left_is_told():
    features, pids = one_set(images=4, people=1)
    with pytest.raises(UserError, match="none of the 4 queries has a match"):
        evaluate(*in_itself(features, np.arange(4)), ignore=np.arange(4))
    evaluate(*in_itself(features, pids), ignore=np.arange(4))
