"""A data set of one's own: six people, each seen twice by each of two cameras."""

import numpy as np
from PIL import Image

from batnet_jax.data import Photo, ReIDBuilder, SplitSource

PEOPLE = {"train": range(4), "query": range(4, 6), "gallery": range(4, 6)}


def draw(photo):
    """Return the PNG of a photo: a plane of the person's colour with a spot."""
    import io

    pixels = np.full((24, 12, 3), 40 * photo.pid, np.uint8)
    pixels[len(photo.filename), photo.camera] = 255, 0, len(photo.filename)
    pixels[int(photo.filename[-5]) + 2] = 99
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class Planes(ReIDBuilder):
    """Images that are drawn when they are prepared."""

    TITLE = "planes"

    def sources(self):
        found = {}
        for split, people in PEOPLE.items():
            photos = [
                Photo(f"{split}_{pid}_c{camera}_{i}.png", pid, camera)
                for pid in people
                for camera in (0, 1)
                for i in (0, 1)
            ]
            found[split] = SplitSource(photos, map(draw, photos))
        return found
