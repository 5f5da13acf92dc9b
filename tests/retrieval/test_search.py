import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import retrieval_oracle as oracle
from support.evaluator_cases import SHAPES, random_case
from support.variants import few

from batnet_jax.errors import UserError
from batnet_jax.retrieval import search, top_k

# (items, k): lengths below, at and above the use of groups, with full and with partial groups.
LENGTHS = [(1, 1), (15, 4), (63, 1), (64, 1), (65, 1), (129, 2), (1000, 5), (1024, 16), (1030, 16)]

grouped_top_k = jax.jit(search.grouped_top_k, static_argnames=("k", "axis"))


def head(scores, k):
    """Return the first k of a stable sort of each row: on ties the lower index comes first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("length", "k"), LENGTHS)
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    levels=st.lists(
        st.floats(-9, 9, width=32, allow_subnormal=False) | st.just(-np.inf), min_size=1, max_size=9
    ),
)
def test_grouped_top_k_is_the_head_of_a_stable_sort(length, k, axis, seed, levels):
    levels = np.array(levels, np.float32) + np.float32(0)  # `block_scores` turns -0 into +0
    scores = np.random.default_rng(seed).choice(levels, (3, length))
    best, indices = grouped_top_k(scores if axis == 1 else scores.T, k=k, axis=axis)
    np.testing.assert_array_equal(indices, head(scores, k))
    np.testing.assert_array_equal(best, np.take_along_axis(scores, head(scores, k), axis=1))


def test_grouped_top_k_of_numbers_without_ties():
    scores = np.random.default_rng(0).standard_normal((50, 3000), np.float32)
    for k in (1, 7, 40):
        _, indices = grouped_top_k(scores, k=k)
        np.testing.assert_array_equal(indices, head(scores, k))


def tied_case(seed, num_query=7, num_gallery=203):
    """Return features whose scores are exact in float32: of length 1, 2 or 4, or zeros."""
    rng = np.random.default_rng(seed)

    def features(n):
        signs = rng.choice([-1.0, 1.0], (n, 4)) * (rng.random((n, 1)) > 0.1)
        return (signs * rng.choice([0.5, 1.0, 2.0], (n, 1))).astype(np.float32)

    return features(num_query), features(num_gallery)


def exact(query, gallery, metric):
    if metric == "euclidean":
        return -np.sqrt(np.square(query[:, None] - gallery).sum(2))
    lengths = [np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-9) for f in (query, gallery)]
    return (query / lengths[0]) @ (gallery / lengths[1]).T


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 64 items."""
    monkeypatch.setattr(search, "CHUNK", 64)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("num_gallery", few([64, 65, 192, 203], keep=[1, 2]))
@pytest.mark.usefixtures("small_chunks")
def test_chunks_do_not_change_the_result(metric, num_gallery):
    for seed in range(5):
        query, gallery = tied_case(seed, num_gallery=num_gallery)
        scores = exact(query, gallery, metric)
        for k, block in [(1, None), (5, 3), (70, None), (999, 4)]:  # a chunk has fewer than 70
            indices, got = top_k(query, gallery, k, metric=metric, block=block)
            np.testing.assert_array_equal(indices, head(scores, k))
            expected = np.take_along_axis(scores, indices, axis=1).astype(np.float32)
            np.testing.assert_array_equal(got, expected)
            assert (indices.dtype, got.dtype) == (np.int32, np.float32)


def test_ties_by_the_thousand_come_in_order():
    gallery = np.zeros((search.CHUNK + 5000, 2), np.float32)
    gallery[[9000, search.CHUNK + 4000]] = [1, 0]
    indices, scores = top_k([[2.0, 0.0], [0.0, 1.0]], gallery, 6)
    np.testing.assert_array_equal(
        indices, [[9000, search.CHUNK + 4000, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    )
    np.testing.assert_array_equal(scores, [[1, 1, 0, 0, 0, 0], [0] * 6])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.usefixtures("small_chunks")
def test_mapped_files(tmp_path, metric, dtype):
    query, gallery = tied_case(3)
    np.save(tmp_path / "gallery.npy", (2 * gallery).astype(dtype))
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    indices, scores = top_k(query, mapped, 9, metric=metric)
    exact_scores = exact(query, 2 * gallery, metric)
    np.testing.assert_array_equal(indices, head(exact_scores, 9))
    np.testing.assert_array_equal(
        scores, np.take_along_axis(exact_scores, indices, 1).astype(np.float32)
    )


@pytest.mark.parametrize("scale", [2.0**117, 2.0**-149], ids=["large", "small"])
@pytest.mark.usefixtures("small_chunks")
def test_lengths_far_from_one_keep_their_direction(scale):
    """Squared lengths overflow float32, or lose digits in it."""
    rng = np.random.default_rng(4)
    query, gallery = rng.integers(-1000, 1001, (3, 16)), rng.integers(-1000, 1001, (203, 16))
    indices, scores = top_k(query, gallery, 203)
    gallery = gallery * np.where(np.arange(203) % 50, 1, scale)[:, None]
    got_indices, got = top_k(query, gallery.astype(np.float32), 203)
    np.testing.assert_array_equal(got_indices, indices)
    np.testing.assert_allclose(got, scores, atol=1e-6)  # of float32


@pytest.mark.parametrize(
    ("value", "metric", "message"),
    [
        (
            np.nan,
            "cosine",
            "gallery_features[128:192] holds NaN or infinite values in 1 of 64 rows",
        ),
        (np.inf, "euclidean", "(the first is row 5): all must be finite"),
        (1e39, "cosine", "gallery_features[128:192] holds NaN or infinite values"),
        (1e19, "euclidean", "gallery_features[128:192] holds a vector of length 1e+19"),
    ],
)
@pytest.mark.usefixtures("small_chunks")
def test_features_that_cannot_be_compared_are_refused_with_their_rows(value, metric, message):
    query, gallery = tied_case(5)
    gallery = gallery.astype(np.float64)
    gallery[133, 2] = value
    with pytest.raises(UserError, match=re.escape(message)):
        top_k(query, gallery, 3, metric=metric)


@pytest.mark.parametrize("gallery", [np.ones(999), np.ones((999, 2), complex), [["a"]] * 999])
@pytest.mark.usefixtures("small_chunks")
def test_an_array_that_is_no_matrix_of_numbers_is_refused(gallery):
    with pytest.raises(UserError, match="gallery_features"):
        top_k([[1.0, 2.0]], gallery, 3)


SEARCH = """
import re, sys
import numpy as np
from batnet_jax.retrieval import top_k

def peak():  # of resident memory, MiB
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", file.read())[1]) / 1024

gallery = np.load(sys.argv[1], mmap_mode="r")
top_k(np.ones((2, gallery.shape[1])), gallery[:20_000], 3)
before = peak()
indices, _ = top_k(np.ones((2, gallery.shape[1])), gallery, 3)
print(*indices[0], round(peak() - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_a_mapped_file(tmp_path):
    path = tmp_path / "gallery.npy"
    mapped = np.lib.format.open_memmap(path, "w+", np.float32, (500_000, 512))  # 1 GB of holes
    mapped[[7, 250_000, 499_999]] = 1
    mapped.flush()
    del mapped
    done = subprocess.run(
        [sys.executable, "-c", SEARCH, path], check=True, capture_output=True, text=True
    )
    *indices, grown = map(int, done.stdout.split())
    assert indices == [7, 250_000, 499_999]
    assert grown < 100


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


def test_no_cosine_exceeds_1():
    """Rounding takes the cosine of a vector with itself beyond 1, for some of many vectors."""
    features = np.random.default_rng(0).standard_normal((2000, 300), np.float32)
    _, scores = top_k(features, features, 1)
    _, opposite = top_k(-features[:50], features[:1], 1)
    assert scores.max() == 1
    assert opposite.min() >= -1
    np.testing.assert_allclose(scores, 1, atol=1e-6)  # of float32
