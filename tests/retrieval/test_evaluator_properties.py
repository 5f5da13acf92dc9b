"""Changes of the input that must, or must not, change the evaluator's result."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.evaluator_cases import FEW, make_case, rank, rank_seeds
from support.fast_jit import FLAGS
from support.paths import ROOT

from batnet_jax.retrieval import (
    ImageSet,
    Labels,
    Options,
    check_labels,
    evaluate,
    evaluate_stream,
    metrics,
)
from batnet_jax.retrieval.matches import MatchKeys
from batnet_jax.retrieval.streaming import chunk_cache, count_methods
from batnet_jax.retrieval.streaming.tiling import (
    PAGE_SLOTS,
    STEP_ROWS,
    fill_pages,
    list_steps,
    make_plan,
)


def assert_alike(got, expected):
    """Compare results that may differ in the order of float64 sums."""
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        if not isinstance(value, str):
            assert got[key] == pytest.approx(value, rel=1e-12)


def without_ties(case):
    query, gallery = case["query_features"].astype(int), case["gallery_features"].astype(int)
    distances = ((query[:, None] - gallery) ** 2).sum(2)
    return all(len(np.unique(row)) == len(row) for row in distances)


@FEW
@given(st.integers(0, 10**6))
def test_the_order_of_a_gallery_without_ties_does_not_matter(seed):
    rng, case = make_case(seed, ties=False)
    if without_ties(case):
        order = rng.permutation(len(case["gallery_pids"]))
        shuffled = {k: v[order] if k.startswith("gallery") else v for k, v in case.items()}
        assert_alike(rank(shuffled), rank(case))


@FEW
@given(st.integers(0, 10**6))
def test_doubled_queries_change_only_their_number(seed):
    _, case = make_case(seed, ties=True)
    twice = {k: np.concatenate([v, v]) if k.startswith("query") else v for k, v in case.items()}
    one, two = rank(case), rank(twice)
    for key in ("num_query", "num_valid_query"):
        assert two.pop(key) == 2 * one.pop(key)
    assert_alike(two, one)


@FEW
@given(st.integers(0, 10**6), st.integers(1, 300))
def test_distractors_never_help_and_distant_ones_change_nothing(seed, number):
    rng, case = make_case(seed, ties=True)
    before = rank(case)

    def add(features):
        more = {"features": features, "pids": np.full(number, 99), "cameras": np.zeros(number, int)}
        return {
            k: np.concatenate([v, more[k.split("_")[1]]]) if k.startswith("gallery") else v
            for k, v in case.items()
        }

    far = np.full((number, 8), 10_000, np.float32)
    after = rank(add(far))
    assert after.pop("num_gallery") == before["num_gallery"] + number
    assert after == {k: v for k, v in before.items() if k != "num_gallery"}
    near = rank(add(rng.integers(-3, 4, (number, 8)).astype(np.float32)))
    for key in ("mAP", "mINP"):
        assert near[key] <= before[key] + 1e-12
    assert all(near["cmc"][k] <= v for k, v in before["cmc"].items())


@FEW
@given(st.integers(0, 10**6), st.sampled_from([2.0**-60, 0.25, 2.0**50]))
def test_a_power_of_two_changes_no_rank(seed, scale):
    _, case = make_case(seed, ties=True)
    scaled = {k: v * np.float32(scale) if "features" in k else v for k, v in case.items()}
    assert evaluate(**scaled) == evaluate(**case)  # the cosine
    if scale == 0.25:
        assert rank(scaled) == rank(case)


@FEW
@given(st.integers(0, 10**6), st.sampled_from([1, 8, 64, 200]), st.sampled_from([1, 30, 128, 500]))
def test_blocks_and_chunks_do_not_matter(seed, block, chunk):
    _, case = make_case(seed, ties=True)
    assert rank(case, block=block, chunk=chunk) == rank(case)


@pytest.mark.parametrize("method", ["triton", "mosaic", "sums"])
def test_all_methods_of_counting_agree(method, monkeypatch):
    """Most scores have ties."""
    for seed in range(6):
        _, case = make_case(seed, ties=True)
        expected = rank(case, block=16)
        with monkeypatch.context() as patch:
            patch.setattr(count_methods, "counting_method", lambda: method)
            assert rank(case, block=16) == expected
            assert rank(case, block=8, chunk=64) == expected


@pytest.mark.parametrize("sizes", [(100, 6000, 2300), (5, 292, 700, 503)], ids=str)
def test_an_identity_may_be_larger_than_an_even_share(sizes):
    rng = np.random.default_rng(0)
    gallery = sum(sizes)
    case = {
        "query_features": rng.integers(-3, 4, (6, 8)).astype(np.float32),
        "query_pids": np.arange(6) % 2,
        "query_cameras": np.ones(6, int),
        "gallery_features": rng.integers(-3, 4, (gallery, 8)).astype(np.float32),
        "gallery_pids": rng.permutation(np.repeat(np.arange(len(sizes)), sizes)),
        "gallery_cameras": np.zeros(gallery, int),
    }
    whole = rank(case, chunk=gallery)
    assert rank(case) == whole
    assert rank(case, chunk=256) == whole


def test_chunks_that_do_not_fit_the_cache_are_requested_again(monkeypatch):
    _, case = make_case(3, ties=True)
    case = {k: np.concatenate([v] * 20) for k, v in case.items()}
    case["gallery_pids"] = case["gallery_pids"] + 6 * (np.arange(len(case["gallery_pids"])) % 5)
    case["query_pids"] = case["query_pids"] + 6 * (np.arange(len(case["query_pids"])) % 5)
    expected = rank(case)

    def run():
        requested = []

        def source(rows):
            requested.append(rows)
            return case["gallery_features"][rows]

        query = ImageSet(case["query_features"], case["query_pids"], case["query_cameras"])
        gallery = Labels(case["gallery_pids"], case["gallery_cameras"])
        cmc_ranks = (1, 2, 3, 5, 10, 50, 200)
        options = Options(metric="euclidean", block=8, chunk=128, cmc_ranks=cmc_ranks)
        got = evaluate_stream(query, gallery, source, options)
        assert got == expected
        return sum(map(len, requested))

    number = len(case["gallery_pids"])
    assert run() == number
    monkeypatch.setattr(chunk_cache, "_CPU_BYTES", 0)
    assert number < run() <= 2 * number


def test_a_mapped_file_gives_the_same_result(tmp_path):
    _, case = make_case(1, ties=True)
    np.save(tmp_path / "gallery.npy", case["gallery_features"])
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    assert rank(case | {"gallery_features": mapped}) == rank(case)


def test_many_matches_fill_several_pages():
    rng = np.random.default_rng(0)
    pids = np.repeat([1, 2], [400, 100])
    features = rng.integers(-2, 3, (500, 4)).astype(np.float32)
    scores = -((features - features[0]) ** 2).sum(1)
    order = np.argsort(-scores, kind="stable")
    hits = np.flatnonzero(pids[order] == 1) + 1
    got = evaluate(features[:1], [1], None, features, pids, None, metric="euclidean")
    assert got["mAP"] == pytest.approx(metrics.average_precision(hits), rel=1e-12)


def test_bfloat16_is_labelled_and_changes_ranks():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 16)).astype(np.float32)
    pids = rng.integers(0, 9, 300)
    exact = evaluate(features[:50], pids[:50], None, features, pids, None)
    rounded = evaluate(features[:50], pids[:50], None, features, pids, None, dtype="bfloat16")
    assert rounded.pop("features") == "bfloat16"
    assert "features" not in exact
    assert rounded != exact
    assert rounded["mAP"] == pytest.approx(exact["mAP"], abs=0.01)


@FEW
@given(st.integers(0, 10**6), st.sampled_from([1, 8, 100]), st.sampled_from([1, 128, 300]))
def test_a_plan_contains_each_item_and_query_once(seed, block, chunk):
    rng = np.random.default_rng(seed)
    num_query, num_gallery, identities = rng.integers(1, 200), rng.integers(1, 900), 12
    query, gallery = (rng.integers(0, identities + 3, n) for n in (num_query, num_gallery))
    views = rng.integers(0, 3, num_query), rng.integers(0, 3, num_gallery)
    keys = MatchKeys(query, views[0]), MatchKeys(gallery, views[1])
    plan = make_plan(*keys, block=block, chunk=chunk)
    np.testing.assert_array_equal(np.sort(np.concatenate(plan.chunks)), np.arange(num_gallery))
    assert all((np.diff(c) > 0).all() and len(c) <= plan.chunk_length for c in plan.chunks)
    valid = np.flatnonzero(plan.relevant.counts)
    planned = np.concatenate([*plan.blocks, np.empty(0, int)])
    np.testing.assert_array_equal(np.sort(planned), valid)
    chunk_of = {g: number for number, items in enumerate(plan.chunks) for g in items.tolist()}
    for q in range(num_query):
        own = np.flatnonzero(gallery == query[q])
        same = views[1][own] == views[0][q]
        np.testing.assert_array_equal(plan.relevant.of(q), own[~same])
        np.testing.assert_array_equal(plan.removed.of(q), own[same])
        if q in valid:
            assert {chunk_of[g] for g in own.tolist()} == {plan.home[q]}
    for queries in plan.blocks:
        pages = fill_pages(plan.relevant, queries, plan.block_rows, 2)
        assert plan.relevant.counts[queries].max() <= 2 * PAGE_SLOTS
        rows = min(STEP_ROWS, plan.block_rows)
        counts = np.zeros(plan.block_rows, int)
        counts[: len(queries)] = plan.relevant.counts[queries]
        listed = {
            (p, *step)
            for p in range(len(pages))
            for step in list_steps(counts - p * PAGE_SLOTS, rows).tolist()
        }
        needed = {(p, r // rows * rows, c // 8 * 8) for p, r, c in np.argwhere(pages >= 0).tolist()}
        assert listed == needed
        found = [pages[:, r][pages[:, r] >= 0] for r in range(len(queries))]
        for q, indices in zip(queries, found, strict=True):
            np.testing.assert_array_equal(
                indices, np.arange(plan.relevant.offsets[q], plan.relevant.offsets[q + 1])
            )


def test_breakdown_and_bootstrap():
    _, case = make_case(5, ties=True)
    got = rank(case, breakdown=True, bootstrap=200, seed=1)
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    plain = rank(case)
    assert {k: got[k] for k in plain} == plain
    for part in ("per_camera", "per_identity"):
        groups = got[part].values()
        assert sum(g["num_query"] for g in groups) == plain["num_query"]
        assert sum(g["num_valid_query"] for g in groups) == plain["num_valid_query"]
        total = sum(g["num_valid_query"] * g["mAP"] for g in groups if g["num_valid_query"])
        assert total / plain["num_valid_query"] == pytest.approx(plain["mAP"], rel=1e-12)
    interval = got["confidence"]
    assert interval["mAP"][0] <= plain["mAP"] <= interval["mAP"][1]
    assert interval["cmc"]["200"] == [1, 1]
    assert rank(case, bootstrap=200, seed=1)["confidence"] == interval
    assert rank(case, bootstrap=200, seed=2)["confidence"] != interval


def test_a_bootstrap_draws_identities():
    # Two people: one always first, one never. Drawn as people: 0 or 1 with probability 1/4 each.
    first = np.array([1] * 50 + [9] * 50)
    figures = metrics.PerQuery(first, 1 / first, 1 / first)
    pids = np.repeat([4, 5], 50)
    got = metrics.bootstrap(figures, pids, cmc_ranks=(1,), samples=500, seed=0, level=0.9)
    assert got["cmc"]["1"] == [0, 1]
    alone = metrics.bootstrap(figures, np.arange(100), cmc_ranks=(1,), samples=500, seed=0)
    assert 0.35 < alone["cmc"]["1"][0] < 0.45 < 0.55 < alone["cmc"]["1"][1] < 0.65  # 0.5 -+ 0.098


SEVERAL = """
import json, sys
sys.path.insert(0, "tests")
from support.evaluator_cases import rank_seeds
print(json.dumps(rank_seeds(block=8, chunk=64)))
"""


@pytest.mark.parametrize("devices", [2, 3])
def test_the_number_of_devices_does_not_matter(devices):
    flags = f"--xla_force_host_platform_device_count={devices} {FLAGS}"
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | {"XLA_FLAGS": flags},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = rank_seeds()
    assert json.loads(done.stdout) == expected


HOSTS = (
    """
import sys
import jax
jax.distributed.initialize("localhost:" + sys.argv[1], 2, int(sys.argv[2]))
"""
    + SEVERAL
)


def test_two_hosts_give_the_result_of_one():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {FLAGS}"}
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOSTS, port, str(number)], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | flags,
        )
        for number in range(2)
    ]  # fmt: skip
    expected = rank_seeds()
    for host in hosts:
        out, err = host.communicate(timeout=300)
        assert host.returncode == 0, err[-3000:]
        assert json.loads(out.splitlines()[-1]) == expected


def test_labels_are_checked_before_features_are_requested():
    query = ImageSet(np.eye(2, dtype=np.float32), np.array([1, 2]), None)
    with pytest.raises(ValueError, match="gallery_pids"):
        evaluate_stream(query, check_labels("gallery", [[1]], None, 1), None, Options())
    with pytest.raises(ValueError, match="cameras were given for only one"):
        evaluate_stream(query, check_labels("gallery", [1], [1], 1), None, Options())
