"""Augmentation on the accelerator, as pure functions of (key, image).

Horizontal flip, and random erasing (Zhong et al. 2017) after epoch 50, are from section 4.4.
Enlarging and cropping, and the constants, are from the published code. Other colours are not the
paper's, and off by default.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from batnet_jax.models.preprocess import normalise

ERASING_AREA = (0.02, 0.4)  # share of the image
ERASING_ASPECT = (0.3, 1 / 0.3)  # height / width
ERASING_ATTEMPTS = 100
COLOUR = 1
"""The number that separates the random numbers of `recolour` from the others."""
GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a grey value (ITU-R BT.601)."""


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


def change_colours(
    image: Float[Array, "h w 3"],
    brightness: float | Float[Array, ""],
    contrast: float | Float[Array, ""],
    saturation: float | Float[Array, ""],
) -> Float[Array, "h w 3"]:
    """Return an image in [0, 255] with other colours, not rounded; a factor of 1 changes nothing.

    Brightness multiplies the image. Contrast then blends the image with the mean of its grey
    values, and saturation blends it with its own grey values: 0 gives only the grey values, and
    more than 1 leads away from them. Values beyond black and white are clipped each time.
    """

    def grey(image: jax.Array) -> jax.Array:
        return (image * jnp.asarray(GREY, image.dtype)).sum(-1, keepdims=True)

    def blend(other: jax.Array | float, image: jax.Array, factor: Any) -> jax.Array:
        return jnp.clip(other + factor * (image - other), 0, 255)

    image = blend(0.0, image, brightness)
    image = blend(grey(image).mean(), image, contrast)
    return blend(grey(image), image, saturation)


def recolour(
    key: Key[Array, ""], image: Float[Array, "h w 3"], *, jitter: float, grey_probability: float
) -> Float[Array, "h w 3"]:
    """Change the colours of an image in [0, 255] at random, or make it grey.

    Args:
      key: of this image.
      image: [h, w, 3] RGB.
      jitter: brightness, contrast and saturation each have a factor in 1 - jitter to 1 + jitter.
      grey_probability: of a grey image.

    Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", NeurIPS
    2012, introduced changes of colour. The three factors are those of Howard, "Some Improvements on
    Deep Convolutional Neural Network Based Image Classification", 2013. Grey images of people: Gong
    et al., "A Person Re-identification Data Augmentation Method with Adversarial Defense Effect",
    2021, with a probability of 0.05.
    """
    coin, factor_key = jax.random.split(key)
    brightness, contrast, saturation = jax.random.uniform(
        factor_key, (3,), image.dtype, minval=1 - jitter, maxval=1 + jitter
    )
    is_grey = jax.random.bernoulli(coin, grey_probability)
    return change_colours(image, brightness, contrast, jnp.where(is_grey, 0, saturation))


def augment(
    keys: Key[Array, " b"],
    images: UInt8[Array, "b h w 3"],
    *,
    enlarge_probability: float,
    erasing_probability: float | Float[Array, ""],
    jitter: float = 0.0,
    grey_probability: float = 0.0,
    dtype: Any = jnp.float32,
) -> Float[Array, "b h w 3"]:
    """Normalise a batch and augment each image with its own key.

    Args:
      keys: [b], a key for each image.
      images: [b, h, w, 3] bytes, RGB.
      enlarge_probability: of `enlarge_and_crop`.
      erasing_probability: of `random_erasing`; 0 before its first epoch.
      jitter: of `recolour`.
      grey_probability: of `recolour`. If it and `jitter` are 0, colours stay unchanged.
      dtype: of the result.
    Returns: [b, h, w, 3] normalised.
    """

    def one(key, image):
        flip_key, crop_key, erase_key = jax.random.split(key, 3)
        if grey_probability or jitter:
            options = {"jitter": jitter, "grey_probability": grey_probability}
            image = recolour(jax.random.fold_in(key, COLOUR), image.astype(dtype), **options)
        image = flip(flip_key, normalise(image, dtype))
        image = enlarge_and_crop(crop_key, image, probability=enlarge_probability)
        return random_erasing(erase_key, image, probability=erasing_probability)

    return jax.vmap(one)(keys, images)
