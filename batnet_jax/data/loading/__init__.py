"""From images to batches: sampling, decoding, caching, prefetching.

sampler: the images of each batch. loader, cache: decode, resize, keep and prefetch them.
user_images, name_list, described_images, user_arrays: images that a user names or passes.
"""
