"""TODO."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

# ImageNet's mean and standard deviation of RGB in [0, 1] (published code).
MEAN = (0.485, 0.456, 0.406)

STD = (0.229, 0.224, 0.225)


def normalise(images: UInt8[Array, "*b h w 3"], dtype=jnp.float32) -> Float[Array, "*b h w 3"]:
    """RGB bytes to zero mean and unit deviation by ImageNet's statistics."""
    images = images.astype(dtype) / 255
    return (images - jnp.asarray(MEAN, dtype)) / jnp.asarray(STD, dtype)
