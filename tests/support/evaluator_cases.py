"""Random cases for the evaluator, whose scores are exact."""

import numpy as np
from hypothesis import settings

from batnet_jax.retrieval import evaluate

# Few examples, because shapes are compiled anew. Plans round the sizes of all cases to few shapes.
FEW = settings(max_examples=25, deadline=None)


def make_case(seed, *, ties):
    """Return a generator and six arrays; integer features make scores exact."""
    rng = np.random.default_rng(seed)
    num_query, num_gallery, identities = rng.integers(9, 17), rng.integers(65, 128), 6
    high = 3 if ties else 10**3

    def features(n):
        return rng.integers(-high, high + 1, (n, 8)).astype(np.float32)

    gallery = features(num_gallery)
    pids = rng.integers(0, identities, num_gallery)
    case = {
        "query_features": features(num_query),
        "query_pids": np.append(rng.integers(0, identities + 1, num_query)[1:], pids[0]),
        "query_cameras": np.append(rng.integers(0, 3, num_query)[1:], 7),
        "gallery_features": gallery,
        "gallery_pids": pids,
        "gallery_cameras": rng.integers(0, 3, num_gallery),
    }
    return rng, case


def rank(case, **options):
    """Evaluate a case by Euclidean distances, with CMC ranks up to beyond the gallery."""
    return evaluate(**case, metric="euclidean", cmc_ranks=(1, 2, 3, 5, 10, 50, 200), **options)
