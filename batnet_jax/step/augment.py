"""Augmentation on the accelerator, as pure functions of (key, image).

Horizontal flip, and random erasing (Zhong et al. 2017) after epoch 50, are from section 4.4.
Enlarging and cropping, and the constants, are from the published code.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from batnet_jax.models.preprocess import normalise

ERASING_AREA = (0.02, 0.4)  # share of the image
ERASING_ASPECT = (0.3, 1 / 0.3)  # height / width
ERASING_ATTEMPTS = 100


def flip(key: Key[Array, ""], image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Mirror an image horizontally with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def enlarge_and_crop(
    key: Key[Array, ""], image: Float[Array, "h w c"], *, probability: float
) -> Float[Array, "h w c"]:
    """With `probability`, enlarge to 9/8 (bilinear) and crop to the old size at random."""
    height, width, channels = image.shape
    coin, row_key, column_key = jax.random.split(key, 3)
    large = (round(height * 9 / 8), round(width * 9 / 8), channels)
    row = jax.random.randint(row_key, (), 0, large[0] - height + 1)
    column = jax.random.randint(column_key, (), 0, large[1] - width + 1)
    enlarged = jax.image.resize(image, large, "bilinear")
    crop = jax.lax.dynamic_slice(enlarged, (row, column, 0), image.shape)
    return jnp.where(jax.random.bernoulli(coin, probability), crop, image)


def random_erasing(
    key: Key[Array, ""], image: Float[Array, "h w c"], *, probability: float | Float[Array, ""]
) -> Float[Array, "h w c"]:
    """With `probability`, set a random rectangle of a normalised image to 0, the mean colour.

    The rectangle is the first that fits of `ERASING_ATTEMPTS` rectangles, all drawn at once. If no
    rectangle fits, the image is unchanged.
    """
    height, width, _ = image.shape
    coin, area_key, aspect_key, row_key, column_key = jax.random.split(key, 5)
    attempts = (ERASING_ATTEMPTS,)
    area = jax.random.uniform(area_key, attempts, minval=ERASING_AREA[0], maxval=ERASING_AREA[1])
    aspect = jax.random.uniform(
        aspect_key, attempts, minval=ERASING_ASPECT[0], maxval=ERASING_ASPECT[1]
    )
    heights = jnp.round(jnp.sqrt(area * height * width * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area * height * width / aspect)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    h, w = heights[first], widths[first]
    row = jax.random.randint(row_key, (), 0, jnp.maximum(height - h, 0) + 1)
    column = jax.random.randint(column_key, (), 0, jnp.maximum(width - w, 0) + 1)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    inside = (rows >= row) & (rows < row + h) & (columns >= column) & (columns < column + w)
    erase = jax.random.bernoulli(coin, probability) & fits.any()
    return jnp.where((inside & erase)[:, :, None], 0, image)


def augment(
    keys: Key[Array, " b"],
    images: UInt8[Array, "b h w 3"],
    *,
    enlarge_probability: float,
    erasing_probability: float | Float[Array, ""],
    dtype: Any = jnp.float32,
) -> Float[Array, "b h w 3"]:
    """Normalise a batch and augment each image with its own key.

    Args:
      keys: [b], a key for each image.
      images: [b, h, w, 3] bytes, RGB.
      enlarge_probability: of `enlarge_and_crop`.
      erasing_probability: of `random_erasing`; 0 before its first epoch.
      dtype: of the result.
    Returns: [b, h, w, 3] normalised.
    """

    def one(key, image):
        flip_key, crop_key, erase_key = jax.random.split(key, 3)
        image = flip(flip_key, normalise(image, dtype))
        image = enlarge_and_crop(crop_key, image, probability=enlarge_probability)
        return random_erasing(erase_key, image, probability=erasing_probability)

    return jax.vmap(one)(keys, images)
