"""A model and a gallery for the tests of searching and serving: colours instead of a network."""

from pathlib import Path

import cv2
import numpy as np

from batnet_jax.config import default_config
from batnet_jax.data.loading.loader import decode
from batnet_jax.data.loading.user_arrays import paths_or_arrays
from batnet_jax.inference import loading

SIZE = (16, 16)
COLOURS = {
    "red.png": (250, 10, 10),
    "deep/dark red.png": (120, 6, 5),
    "deep/green.png": (20, 240, 20),
    "blue <b>.png": (10, 10, 240),
    "grey.png": (128, 128, 128),
}


class Colours:
    """Embeds an image as its mean colour."""

    image_size = SIZE
    dim = 3
    step = 5
    alpha = "white"

    def embed(self, images):
        paths, arrays = paths_or_arrays(images)
        if paths is not None:
            arrays = [decode(Path(path).read_bytes(), SIZE) for path in paths]
        return np.stack([np.mean(array, (0, 1)) for array in arrays]).astype(np.float32)


def png(colour, height=40, width=30):
    return cv2.imencode(".png", np.full((height, width, 3), colour[::-1], np.uint8))[1].tobytes()


def write_gallery(folder):
    """The images; their order is that of their names."""
    for name, colour in COLOURS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(colour))
    return folder


def use_colours(monkeypatch):
    """Puts `Colours` in the place of every model."""
    monkeypatch.setattr(loading, "load_with_config", lambda *_, **__: Colours())


def config():
    return default_config()
