import numpy as np
import pytest

from batnet_jax.errors import UserError
from batnet_jax.retrieval import ImageSet, pool_queries


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
