"""Ranks, compared with a stable sort of the evaluator's own scores."""

import numpy as np
import pytest
from support import retrieval_oracle as oracle

from batnet_jax.retrieval.image_set import ImageSet, Labels
from batnet_jax.retrieval.streaming import count_methods
from batnet_jax.retrieval.streaming.chunks import ChunkLoader
from batnet_jax.retrieval.streaming.prepare_features import make_queries
from batnet_jax.retrieval.streaming.ranks import plan_tiles, relevant_ranks


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
@pytest.mark.parametrize("method", ["windows", "triton", "mosaic", "sums"])
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
