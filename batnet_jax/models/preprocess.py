"""Turns the bytes of images into the input of a network."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

# Of RGB in [0, 1] over ImageNet (published code).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Of RGB in [0, 1] over CLIP's training images (Radford et al., ICML 2021, their code).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def normalise(images: Num[Array, "*b h w 3"], dtype=jnp.float32) -> Float[Array, "*b h w 3"]:
    """Normalise RGB images in [0, 255] by ImageNet's mean and deviation."""
    images = images.astype(dtype) / 255
    return (images - jnp.asarray(IMAGENET_MEAN, dtype)) / jnp.asarray(IMAGENET_STD, dtype)


def rescale(images: Float[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
    """Map the result of `normalise` to the range from -1 (black) to 1 (white)."""
    return 2 * _restore(images) - 1


def as_clip(images: Float[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
    """Turn the result of `normalise` into images normalised by CLIP's mean and deviation."""
    mean, std = (jnp.asarray(value, images.dtype) for value in (CLIP_MEAN, CLIP_STD))
    return (_restore(images) - mean) / std


def _restore(images: jax.Array) -> jax.Array:
    """Turn the result of `normalise` back into RGB in [0, 1]."""
    mean, std = (jnp.asarray(value, images.dtype) for value in (IMAGENET_MEAN, IMAGENET_STD))
    return images * std + mean


PIXELS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "ImageNet's mean and deviation": lambda images: images,
    "pixels of -1 to 1": rescale,
    "CLIP's mean and deviation": as_clip,
}
"""Functions from the result of `normalise` to a network's input, by their names in messages."""
IMAGENET, HALF, CLIP = PIXELS
