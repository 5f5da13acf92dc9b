"""Chunks that wait on the devices for groups that have yet to meet them."""

import numpy as np

from batnet_jax.retrieval.streaming import chunk_cache

CHUNKS = [{"features": np.full(6, number, np.float32)} for number in range(4)]
BYTES = 24


def test_it_keeps_chunks_that_fit_until_they_are_dropped(monkeypatch):
    monkeypatch.setattr(chunk_cache, "_CPU_BYTES", 2 * BYTES)
    cache = chunk_cache.ChunkCache()
    for number in (2, 0, 1):
        cache.put(number, CHUNKS[number])
    assert cache.numbers() == [0, 2]  # chunk 1 did not fit
    np.testing.assert_array_equal(cache.get(2)["features"], CHUNKS[2]["features"])
    cache.keep_only({0, 3})
    assert cache.numbers() == [0]
    cache.put(3, CHUNKS[3])
    assert cache.numbers() == [0, 3]
