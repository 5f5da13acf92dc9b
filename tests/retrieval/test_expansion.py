import re

import numpy as np
import pytest

from batnet_jax.errors import UserError
from batnet_jax.retrieval import check_left_out, top_k
from batnet_jax.retrieval.expansion import expand_queries

# The cosines with the query (3, 0), in descending order: 0.8, 0.6, 0 and -1.
QUERY = [[3.0, 0.0]]
GALLERY = np.float32([[-1.0, 0.0], [8.0, 6.0], [0.0, 2.0], [0.3, 0.4]])


@pytest.mark.parametrize(
    ("k", "alpha", "total"),
    [
        (1, 0, (1.8, 0.6)),
        (2, 0, (2.4, 1.4)),
        (2, 1, (1 + 0.64 + 0.36, 0.48 + 0.48)),
        (2, 3, (1 + 0.8**4 + 0.6**4, 0.6 * 0.8**3 + 0.8 * 0.6**3)),
        (9, 1, (1 + 0.64 + 0.36, 0.48 + 0.48)),  # cosines 0 and -1 weigh nothing
        (9, 0, (1.4, 2.4)),
    ],
)
def test_worked_by_hand(k, alpha, total):
    got = expand_queries(QUERY, GALLERY, k=k, alpha=alpha)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [total / np.linalg.norm(total)], rtol=1e-6)  # of float32


def test_euclidean_takes_features_as_they_are():
    got = expand_queries(QUERY, GALLERY, k=2, metric="euclidean")
    np.testing.assert_allclose(got, [[3.3 / 3, 2.4 / 3]], rtol=1e-6)  # (0.3, 0.4) and (0, 2)


@pytest.mark.parametrize("mapped", [False, True])
def test_against_a_loop(tmp_path, mapped):
    rng = np.random.default_rng(0)
    query = rng.standard_normal((5, 8), np.float32)
    gallery = rng.standard_normal((40, 8), np.float32)
    np.save(tmp_path / "gallery.npy", gallery)
    given = np.load(tmp_path / "gallery.npy", mmap_mode="r" if mapped else None)
    before = query.copy()
    got = expand_queries(query, given, k=6, alpha=2.5)
    np.testing.assert_array_equal(query, before)
    for q, row in zip(query, got, strict=True):
        unit = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
        cosines = unit @ q / np.linalg.norm(q)
        best = np.argsort(-cosines)[:6]
        total = q / np.linalg.norm(q) + sum(cosines[i] ** 2.5 * unit[i] for i in best)
        np.testing.assert_allclose(row, total / np.linalg.norm(total), rtol=1e-5, atol=1e-6)


def test_an_expanded_query_finds_images_unlike_the_query():
    """The second item is similar to the first item, not to the query."""
    gallery = np.float32([[0.6, 0.8, 0], [-0.2, 1, 0], [0.3, 0, 1]])
    assert top_k([[1.0, 0, 0]], gallery, 3)[0].tolist() == [[0, 2, 1]]
    expanded = expand_queries([[1.0, 0, 0]], gallery, k=1)
    assert top_k(expanded, gallery, 3)[0].tolist() == [[0, 1, 2]]


def test_a_query_of_zeros_stays_finite():
    np.testing.assert_array_equal(expand_queries([[0.0, 0.0]], GALLERY[:1], k=1), [[-1, 0]])
    np.testing.assert_array_equal(expand_queries([[0.0, 0.0]], GALLERY, k=4, alpha=1), [[0, 0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(k=0), "k=0: must be an integer of at least 1"),
        (dict(alpha=-1), "alpha=-1: must be a number of at least 0"),
        (dict(alpha=np.nan), "alpha=nan: must be a number of at least 0"),
        (dict(alpha=np.inf), "alpha=inf: must be a number of at least 0"),
        (dict(alpha="3"), "alpha='3': must be a number of at least 0"),
        (dict(alpha=True), "alpha=True: must be a number of at least 0"),
        (dict(alpha=3, metric="euclidean"), "alpha=3 with metric='euclidean': weights are powers"),
        (dict(metric="l2"), "metric='l2' is unknown"),
        (dict(query_features=[[1.0]]), "query_features have 1 dimensions and gallery_features 2"),
        (dict(gallery_features=[[np.nan, 1.0]]), "gallery_features holds NaN"),
    ],
)
def test_refusals(change, message):
    good = dict(query_features=QUERY, gallery_features=GALLERY, k=2)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        expand_queries(**good | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_left_out_items_weigh_nothing(metric):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((7, 4), np.float32)
    lists = [[q, (q + 1) % 7] for q in range(6)] + [list(range(1, 7))]  # the last keeps one item
    left_out = check_left_out(7, 7, ignore=lists)
    got = expand_queries(features, features, k=3, metric=metric, left_out=left_out)
    for q in range(7):
        others = np.delete(features, lists[q], axis=0)
        alone = expand_queries(features[q : q + 1], others, k=3, metric=metric)
        np.testing.assert_allclose(got[q], alone[0], rtol=1e-5)  # of float32
