import csv
import itertools
import json
import re

import numpy as np
import pytest
from support import needs
from support import retrieval_oracle as oracle

from batnet_jax.errors import UserError
from batnet_jax.retrieval import evaluate, metrics, top_k
from batnet_jax.retrieval.image_set import ImageSet, Labels
from batnet_jax.retrieval.scores import block_scores, block_size
from batnet_jax.retrieval.streaming import count_methods
from batnet_jax.retrieval.streaming.chunks import ChunkLoader
from batnet_jax.retrieval.streaming.prepare_features import make_queries
from batnet_jax.retrieval.streaming.ranks import plan_tiles, relevant_ranks

# (queries, gallery, junk in it, dimensions, block): few shapes, because each is compiled anew.
# Galleries are smaller and larger than the largest CMC rank (20). Blocks divide the queries, do not
# divide them, exceed them, or have one query.
SHAPES = [(7, 12, 0, 4, 3), (6, 23, 4, 4, 6), (10, 40, 5, 16, 4), (5, 6, 1, 1, 8), (4, 31, 0, 4, 1)]


def random_case(seed, shape, metric):
    """Return six arrays whose scores are exact in float32 and have many ties.

    Cosine: entries are +1 and -1, or all 0, in 1, 4 or 16 dimensions, so lengths are 1, 2, 4 or 0.
    """
    num_query, num_gallery, num_junk, dimensions, _ = shape
    rng = np.random.default_rng(seed)

    def features(n):
        if metric == "euclidean":
            return rng.integers(-2, 3, (n, dimensions)).astype(np.float32)
        signs = rng.choice([-1.0, 1.0], (n, dimensions)) * (rng.random((n, 1)) > 0.1)
        return (signs * rng.choice([0.5, 1.0, 4.0], (n, 1))).astype(np.float32)

    identities, cameras = rng.integers(1, 7), rng.integers(1, 5)
    gallery_pids = rng.integers(0, identities, num_gallery)
    gallery_pids[rng.permutation(num_gallery)[:num_junk]] = -1
    return (
        features(num_query),
        rng.integers(0, identities + 2, num_query),  # the last two are not in the gallery
        rng.integers(0, cameras, num_query),
        features(num_gallery),
        gallery_pids,
        rng.integers(0, cameras, num_gallery),
    )


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


def ranks_and_scores(monkeypatch, case, *, metric, block, chunk, same_camera="remove"):
    """Return the ranks, all scores of the evaluator's tiles, and the rows it requested."""
    query, gallery = ImageSet(*case[:3]), Labels(*case[4:6])
    sizes = {"same_camera": same_camera, "block": block, "chunk": chunk}
    plan = plan_tiles(query.labels, gallery, **sizes)
    requested, items_of_chunk = [], {}
    scores = np.full((len(case[0]), len(case[3])), np.nan, np.float32)
    load, tile_scores = ChunkLoader.load, count_methods.tile_scores
    prepared = np.asarray(make_queries(case[0], metric, "float32")(np.arange(len(case[0]))))

    def watched_load(loader, number):
        chunk = load(loader, number)
        items_of_chunk[np.asarray(chunk.features).tobytes()] = plan.chunks[number]
        return chunk

    def watched_scores(queries, features, offset):
        result = tile_scores(queries, features, offset)
        items = items_of_chunk[np.asarray(features).tobytes()]
        rows = np.asarray(queries)[0]
        (block,) = (b for b in plan.blocks if np.array_equal(rows[: len(b)], prepared[b]))
        own = np.asarray(result)[0][: len(block), : len(items)]
        before = scores[np.ix_(block, items)]  # a block across two homes may meet both twice
        np.testing.assert_array_equal(np.where(np.isnan(before), own, before), own)
        scores[np.ix_(block, items)] = own
        return result

    def source(rows):
        requested.append(rows)
        return case[3][rows]

    monkeypatch.setattr(ChunkLoader, "load", watched_load)
    monkeypatch.setattr(count_methods, "tile_scores", watched_scores)
    return relevant_ranks(query, gallery, source, metric=metric, **sizes), scores, requested


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("size", [(33, 150, 9), (90, 700, 40), (200, 1000, 12)], ids=str)
@pytest.mark.parametrize("method", ["windows", "kernel", "sums"])
def test_ranks_are_a_stable_sort_of_the_evaluators_scores(monkeypatch, metric, size, method):
    monkeypatch.setattr(count_methods, "counting_method", lambda: method)
    num_query, num_gallery, identities = size
    rng = np.random.default_rng(num_query)
    case = (
        rng.normal(size=(num_query, 24)).astype(np.float32),
        rng.integers(0, identities + 2, num_query),
        rng.integers(0, 3, num_query),
        rng.normal(size=(num_gallery, 24)).astype(np.float32),
        rng.integers(0, identities, num_gallery),
        rng.integers(0, 3, num_gallery),
    )
    ranks, scores, requested = ranks_and_scores(
        monkeypatch, case, metric=metric, block=16, chunk=128
    )
    np.testing.assert_array_equal(np.sort(np.concatenate(requested)), np.arange(num_gallery))
    for q in range(num_query):
        matches = []
        if len(ranks.of(q)):
            assert not np.isnan(scores[q]).any()
            matches = oracle.ranked_matches(
                scores[q], case[1][q], case[2][q], case[4], case[5], keep=False
            )
        np.testing.assert_array_equal(ranks.of(q), np.flatnonzero(matches) + 1)
    assert ranks.values.dtype == np.int64
    some = np.flatnonzero(np.diff(ranks.offsets))[:5]
    exact = np.array([oracle.similarity(case[0][q], case[3], metric) for q in some])
    own = scores[some]
    if metric == "euclidean":  # |q - g|^2 = |q|^2 - 2 (q.g - |g|^2 / 2)
        own = 2.0 * own - np.sum(case[0][some].astype(float) ** 2, axis=1)[:, None]
    # float32 sums of 24 products of order 1 to 100.
    np.testing.assert_allclose(own, exact, atol=1e-6 if metric == "cosine" else 1e-4)


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


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_top_k_is_the_head_of_a_stable_sort(shape, metric):
    for seed in range(10):
        case = random_case(seed, shape, metric)
        for k in (1, 5, 100):
            indices, scores = top_k(case[0], case[3], k, metric=metric, block=shape[-1])
            expected = np.array([oracle.similarity(f, case[3], metric) for f in case[0]])
            order = np.argsort(-expected, axis=1, kind="stable")[:, :k]
            np.testing.assert_array_equal(indices, order)
            assert indices.dtype == np.int32
            assert scores.dtype == np.float32
            expected = np.take_along_axis(expected, order, axis=1)
            if metric == "euclidean":
                expected = -np.sqrt(-expected)
            np.testing.assert_array_equal(scores, expected.astype(np.float32))


GOOD = dict(
    query_features=np.eye(2, 3), query_pids=[1, 2], query_cameras=[1, 1],
    gallery_features=np.eye(3), gallery_pids=[1, 2, 3], gallery_cameras=[2, 2, 2],
)  # fmt: skip
REFUSALS = [
    (dict(metric="l2"), "metric='l2' is unknown: use 'cosine' or 'euclidean'"),
    (dict(ap="voc"), "ap='voc' is unknown: use 'precision' or 'trapezoid'"),
    (dict(same_camera=True), "same_camera=True is unknown: use 'remove' or 'keep'"),
    (dict(cmc_ranks=(1, 0)), "cmc_ranks=0: must be an integer of at least 1"),
    (dict(block=0), "block=0: must be an integer of at least 1"),
    (dict(block=2.5), "block=2.5: must be an integer of at least 1"),
    (dict(query_features=[[1, np.nan, 0], [1, 0, 0]]), "query_features holds NaN or infinite"),
    (dict(gallery_features=[[1, 0, 0], [1, 1, 1], [np.inf, 0, 0]]), "in 1 of 3 rows (the first is"),
    (dict(gallery_features=np.eye(3) * 1e39), "gallery_features holds NaN or infinite values in 3"),
    (
        dict(gallery_features=np.eye(3, dtype=np.float32) * 1e20, metric="euclidean"),
        "of length 1e+20: euclidean",
    ),
    (dict(query_features=np.eye(2, 3) + 1 / 3), "has dtype float64 and values that float32 rounds"),
    (
        dict(gallery_features=np.eye(3, dtype=int) + 2**24),
        "has dtype int64 and values that float32",
    ),
    (dict(dtype="float16"), "dtype='float16' is unknown: use 'float32' or 'bfloat16'"),
    (dict(chunk=0), "chunk=0: must be an integer of at least 1"),
    (dict(bootstrap=-1), "bootstrap=-1: must be an integer of at least 1"),
    (dict(query_features=np.eye(2, 3) * 1j), "query_features has dtype complex128"),
    (dict(query_features=[["a", "b", "c"]] * 2), "query_features has dtype <U1: must be numbers"),
    (dict(query_features=np.ones(3)), "query_features has shape (3,): must be [images"),
    (dict(query_features=np.eye(2)), "have 2 dimensions and gallery_features 3: must be equal"),
    (dict(query_features=np.ones((0, 3))), "query_features is empty, of shape (0, 3)"),
    (dict(gallery_features=np.ones((0, 3))), "gallery_features is empty, of shape (0, 3)"),
    (dict(gallery_features=np.ones((3, 0))), "gallery_features is empty, of shape (3, 0)"),
    (dict(query_pids=[1]), "query_pids has shape (1,): must be (2,)"),
    (dict(gallery_pids=[1, 2]), "gallery_pids has shape (2,): must be (3,)"),
    (dict(query_cameras=[[1, 1]]), "query_cameras has shape (1, 2): must be (2,)"),
    (dict(gallery_cameras=[2] * 4), "gallery_cameras has shape (4,): must be (3,)"),
    (dict(query_pids=[1.0, 2.0]), "query_pids has dtype float64: must be integers"),
    (dict(gallery_pids=["a", "b", "c"]), "gallery_pids has dtype <U1: must be integers"),
    (dict(query_cameras=[True, False]), "query_cameras has dtype bool: must be integers"),
    (dict(query_cameras=None), "cameras were given for only one of query and gallery"),
    (dict(gallery_cameras=None), "cameras were given for only one of query and gallery"),
    (dict(gallery_pids=[-1, -1, -1]), "all 3 gallery items are junk"),
    (dict(junk=[True] * 3), "all 3 gallery items are junk"),
    (dict(junk=[0, 1, 0]), "junk has dtype int64 and shape (3,): must be a mask, bool of shape"),
    (dict(junk=[True]), "junk has dtype bool and shape (1,): must be a mask, bool of shape (3,)"),
    (dict(query_pids=[8, 9]), "none of the 2 queries has a match among the 3 gallery items"),
    (dict(query_cameras=[2, 2]), "needs its identity seen by another camera"),
    (dict(query_pids=[-1, -1], gallery_pids=[-1, 2, 3]), "none of the 2 queries"),
]


@pytest.mark.parametrize(("change", "message"), REFUSALS, ids=[m for _, m in REFUSALS])
def test_refusals(change, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        evaluate(**GOOD | change)
    assert "\n" not in str(caught.value)


def test_good_is_good():
    assert evaluate(**GOOD)["mAP"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(k=0), "k=0: must be an integer"),
        (dict(k=True), "k=True: must be an integer"),
        (dict(metric="l2"), "metric='l2' is unknown"),
        (dict(block=-1), "block=-1: must be an integer"),
        (dict(query_features=[[np.nan] * 3]), "query_features holds NaN"),
        (dict(gallery_features=np.eye(4)), "have 3 dimensions and gallery_features 4"),
    ],
)
def test_top_k_refusals(change, message):
    good = dict(query_features=np.eye(2, 3), gallery_features=np.eye(3), k=2)
    with pytest.raises(UserError, match=re.escape(message)):
        top_k(**good | change)


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
