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


def rank_seeds(**options):
    """Evaluate six cases, and each again where every query ignores a third of the gallery."""
    results = []
    for seed in range(6):
        rng, case = make_case(seed, ties=True)
        ignore = rng.random((len(case["query_pids"]), len(case["gallery_pids"]))) < 1 / 3
        results += [rank(case, **options), rank(case, ignore=ignore, **options)]
    return results


# (queries, gallery, junk in it, dimensions, block): few shapes, because each has to be compiled.
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
