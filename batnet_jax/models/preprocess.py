"""From the bytes of images to the input of a network."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

# Of RGB in [0, 1] over ImageNet (published code).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(images: Num[Array, "*b h w 3"], dtype=jnp.float32) -> Float[Array, "*b h w 3"]:
    """Return RGB images in [0, 255] with the mean and deviation of ImageNet's brought to 0, 1."""
    images = images.astype(dtype) / 255
    return (images - jnp.asarray(IMAGENET_MEAN, dtype)) / jnp.asarray(IMAGENET_STD, dtype)


def rescale(images: Float[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
    """Return images that `normalise` has prepared with black brought to -1 and white to 1."""
    std, mean = (jnp.asarray(value, images.dtype) for value in (IMAGENET_STD, IMAGENET_MEAN))
    return 2 * (images * std + mean) - 1
