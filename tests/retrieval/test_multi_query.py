import numpy as np
import pytest

from batnet_jax.retrieval import pool_queries


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooled_over_identity_and_camera(pooling):
    """Against a loop; the last query has no further images, and keeps its own feature."""
    rng = np.random.default_rng(0)
    query = rng.standard_normal((4, 3)), np.array([1, 1, 2, 9]), np.array([1, 2, 1, 1])
    more = rng.standard_normal((20, 3)), rng.integers(1, 3, 20), rng.integers(1, 3, 20)
    expected = query[0].copy()
    for q in range(3):
        rows = [i for i in range(20) if (more[1][i], more[2][i]) == (query[1][q], query[2][q])]
        assert len(rows) > 1
        expected[q] = getattr(np.stack([more[0][i] for i in rows]), pooling)(0)
    np.testing.assert_allclose(pool_queries(query, more, pooling), expected, rtol=1e-12)
