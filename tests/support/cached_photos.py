"""Photos that count how often each is read, and stores that cache them decoded on disk."""

import cv2
import numpy as np

from batnet_jax.data.loading.loader import ImageStore, decode

N = 12
"""Number of photos."""
SIZE = (16, 8)
"""Height and width after decoding."""
IMAGE_BYTES = 16 * 8 * 3
"""Bytes of a decoded image."""
START = 4 * N
"""Offset of the images in the file, after the checksums."""


class Photos:
    """N noise images of another size than SIZE; counts how often each is read."""

    def __init__(self):
        images = np.random.default_rng(0).integers(0, 256, (N, 20, 10, 3), dtype=np.uint8)
        self.files = [cv2.imencode(".png", image)[1].tobytes() for image in images]
        self.filenames = [f"{i}.png" for i in range(N)]
        self.reads = np.zeros(N, int)

    def __len__(self):
        return N

    def encoded(self, i):
        self.reads[i] += 1
        return self.files[i]


def expected(size=SIZE):
    """Return all photos decoded without a cache: [N, h, w, 3] uint8."""
    return np.stack([decode(file, size) for file in Photos().files])


def open_store(photos, folder, size=SIZE, **options):
    """Open a store; by default with a cache on disk."""
    options = {"cache_gb": 0.0, "disk_cache": folder, "disk_cache_gb": 1.0, **options}
    return ImageStore(photos, image_size=size, **options)
