import numpy as np
import pytest

from batnet_jax.errors import UserError
from batnet_jax.retrieval import ImageSet, evaluate, pool_queries, pool_tracks, top_k


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooled_over_identity_and_camera(pooling):
    """Compare with a loop. The last query has no further images and keeps its own feature."""
    rng = np.random.default_rng(0)
    query = rng.standard_normal((4, 3)), np.array([1, 1, 2, 9]), np.array([1, 2, 1, 1])
    more = rng.standard_normal((20, 3)), rng.integers(1, 3, 20), rng.integers(1, 3, 20)
    expected = query[0].copy()
    for q in range(3):
        rows = [i for i in range(20) if (more[1][i], more[2][i]) == (query[1][q], query[2][q])]
        assert len(rows) > 1
        expected[q] = getattr(np.stack([more[0][i] for i in rows]), pooling)(0)
    got = pool_queries(ImageSet(*query), ImageSet(*more), pooling)
    np.testing.assert_allclose(got.features, expected, rtol=1e-12)
    assert (got.pids is query[1], got.cameras is query[2]) == (True, True)


def test_queries_of_unknown_cameras_are_not_pooled():
    known = ImageSet(np.ones((1, 2)), np.ones(1, int), np.ones(1, int))
    unknown = ImageSet(np.ones((1, 2)), np.ones(1, int), None)
    with pytest.raises(UserError, match="needs the cameras"):
        pool_queries(known, unknown, "mean")


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooled_over_tracks(pooling):
    """Compare with a loop. Tracks are in the order in which they begin."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((9, 4)).astype(np.float32)
    tracks = np.array(["c2", "a7", "c2", "b1", "a7", "c2", "b1", "b1", "d0"])
    pooled, first = pool_tracks(features, tracks, pooling)
    assert (pooled.dtype, first.tolist()) == (np.float32, [0, 1, 3, 8])
    for row, track in zip(pooled, ("c2", "a7", "b1", "d0"), strict=True):
        own = getattr(features[tracks == track].astype(np.float64), pooling)(0)
        np.testing.assert_allclose(row, own / np.linalg.norm(own), atol=1e-6)


def test_a_track_is_one_item_of_a_search_and_of_an_evaluation():
    """Two people of three noisy tracks each: single images fail where a track's mean does not."""
    rng = np.random.default_rng(1)
    people = np.repeat([0, 1], 60)
    features = np.eye(2)[people] + 1.2 * rng.standard_normal((120, 2))
    tracks, cameras = np.arange(120) // 20, (np.arange(120) // 20) % 3
    pooled, first = pool_tracks(features, tracks)
    pids, views = people[first], cameras[first]
    items, scores = top_k(pooled, pooled, 3)
    assert items.shape == scores.shape == (6, 3)
    assert items[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    figures = evaluate(pooled, pids, views, pooled, pids, views)
    single = evaluate(features, people, cameras, features, people, cameras)
    assert figures["mAP"] == 1 > single["mAP"] + 0.2


@pytest.mark.parametrize(
    ("features", "tracks", "pooling", "message"),
    [
        (np.ones((3, 2)), [1, 2], "mean", r"shape \(3, 2\) and tracks \(2,\)"),
        (np.ones(3), [1, 2, 3], "mean", r"must be \[n, d\] and \[n\]"),
        (np.ones((1, 2)), [1], "median", "pooling='median' is not one of mean, max"),
        (np.full((1, 2), np.nan), [1], "max", "not finite"),
    ],
)
def test_tracks_that_cannot_be_pooled(features, tracks, pooling, message):
    with pytest.raises(UserError, match=message):
        pool_tracks(features, tracks, pooling)


def test_no_tracks():
    pooled, first = pool_tracks(np.ones((0, 3)), [])
    assert (pooled.shape, first.shape) == ((0, 3), (0,))
