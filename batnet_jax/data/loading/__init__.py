"""From a prepared split to batches: sampling, decoding, caching, prefetching."""
