"""Views of features: some rows, and several files, are searched as copies of them would be."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batnet_jax.inference.feature_file import open_features, write_features
from batnet_jax.inference.gallery import search_lists
from batnet_jax.retrieval import check_left_out, chosen_rows, search, top_k
from batnet_jax.retrieval.chosen_rows import ChosenRows, JoinedRows

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(300, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def in_file(tmp_path_factory):
    """The features as a file that is not held in memory."""
    path = tmp_path_factory.mktemp("rows") / "F.npz"
    write_features(path, [FEATURES], shape=FEATURES.shape, paths=list(map(str, range(300))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batnet_jax.inference.feature_file.IN_MEMORY", 0)
        return open_features(path).features


@settings(deadline=None)
@given(
    chosen=st.sets(st.integers(0, 299)),
    gap=st.sampled_from([20, 100, 2**16]),
    span=st.sampled_from([20, 400, 2**22]),
    run=st.sampled_from([0, 21, 100, 2**16]),
    part=st.tuples(st.integers(0, 300), st.integers(0, 300)),
)
def test_chosen_rows_are_those_of_the_array(in_file, chosen, gap, span, run, part):
    indices = np.array(sorted(chosen), int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chosen_rows, "_GAP_BYTES", gap)
        patch.setattr(chosen_rows, "_SPAN_BYTES", span)
        patch.setattr(chosen_rows, "_RUN_BYTES", run)
        for features in (FEATURES, in_file):
            found = ChosenRows(features, indices)
            assert found.shape == (len(chosen), 5)
            np.testing.assert_array_equal(found[:], FEATURES[indices])
            np.testing.assert_array_equal(found[slice(*part)], FEATURES[indices][slice(*part)])


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=4), part=st.tuples(*[st.integers(0, 300)] * 2))
def test_joined_rows_are_those_of_the_array(in_file, cuts, part):
    bounds = [0, *sorted(cuts), 300]
    parts = [
        FEATURES[a:b] if i % 2 else ChosenRows(in_file, np.arange(a, b))
        for i, (a, b) in enumerate(itertools.pairwise(bounds))
    ]
    found = JoinedRows(parts)
    assert found.shape == FEATURES.shape
    np.testing.assert_array_equal(found[slice(*part)], FEATURES[slice(*part)])


def test_rows_that_follow_each_other_are_read_to_their_place(in_file, monkeypatch):
    """A chunk of two runs takes two reads, and no row between them is read."""
    reads = []
    read = type(in_file).read_into
    monkeypatch.setattr(
        type(in_file),
        "read_into",
        lambda self, first, out: (reads.append((first, len(out))), read(self, first, out)),
    )
    monkeypatch.setattr(chosen_rows, "_RUN_BYTES", 100)
    chosen = np.r_[10:200, 203:290]
    found = np.empty((len(chosen), 5), np.float32)
    ChosenRows(in_file, chosen).read_into(0, found)
    np.testing.assert_array_equal(found, FEATURES[chosen])
    assert reads == [(10, 190), (203, 87)]


def test_types_of_joined_rows_are_widened():
    found = JoinedRows([FEATURES.astype(np.float16), FEATURES])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:300], FEATURES.astype(np.float16))


@pytest.mark.parametrize("count", [0, 1, 3, 40, 290])
def test_the_nearest_of_those_that_pass(in_file, monkeypatch, count):
    """By float64 sums over copies; the query's own items are left out, too."""
    monkeypatch.setattr(search, "CHUNK", 64)
    rows = np.sort(RNG.choice(300, count, replace=False))
    queries = RNG.normal(size=(4, 5)).astype(np.float32)
    own = check_left_out(4, 300, ignore=[rows[:1], [], rows[1:3], [0, 299]])
    lengths = np.linalg.norm(FEATURES.astype(float), axis=1)
    for features in (FEATURES, in_file):
        found = search_lists(queries, features, 7, own, rows)
        for q, (indices, scores) in enumerate(found):
            passing = np.setdiff1d(rows, own.of(q))
            cosines = FEATURES[passing] @ queries[q].astype(float) / lengths[passing]
            best = np.argsort(-cosines, kind="stable")[:7]
            assert indices.tolist() == passing[best].tolist()
            wanted = cosines[best] / np.linalg.norm(queries[q])
            np.testing.assert_allclose(scores, wanted, atol=1e-6)  # of float32


def test_few_lengths_are_compiled_for():
    """A filter that passes other numbers of images compiles nothing anew."""
    sizes = {search._chunk_length(n) for n in range(1, 20_000)}
    assert sizes == {2**p for p in range(14)}
    for n in (1, 2, 5, 8191, 8192, 8193):
        assert search._chunk_length(n) >= min(n, search.CHUNK)
    features = FEATURES[:5]
    assert top_k(features, features, 9)[0][:, 0].tolist() == [0, 1, 2, 3, 4]
