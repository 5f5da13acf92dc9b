"""Images in memory that are refused, each with its reason."""

import numpy as np
import pytest
from PIL import Image

from batnet_jax.data.loading.user_arrays import ArrayStore, paths_or_arrays, to_picture
from batnet_jax.errors import UserError

EMPTY = [(0, 5, 3), (5, 0, 3), (0, 0, 3), (0, 5), (5, 0, 1), (0, 5, 4)]


@pytest.mark.parametrize("shape", EMPTY)
def test_empty_crops_are_said_to_be_empty(shape):
    with pytest.raises(UserError, match=r"image 3 is empty, of shape .*: leave it out; a crop is"):
        to_picture(np.zeros(shape, np.uint8), "image 3")


def test_an_empty_crop_among_others_is_named():
    _, crops = paths_or_arrays([np.ones((4, 4, 3), np.uint8), np.ones((4, 0, 3), np.uint8)])
    with pytest.raises(UserError, match=r"image 1 is empty, of shape \(4, 0, 3\)"):
        ArrayStore(crops, (16, 8)).batch(np.arange(2))


def test_an_empty_image_of_pillow():
    with pytest.raises(UserError, match="image 0 is empty"):
        to_picture(Image.new("RGB", (0, 4)), "image 0")


def test_other_shapes_are_still_wrong_shapes():
    with pytest.raises(UserError, match=r"has shape .*: must be"):
        to_picture(np.zeros((4, 4, 2), np.uint8), "image 0")
