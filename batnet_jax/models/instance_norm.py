"""Instance normalisation: by the statistics of each image's own map, in training and afterwards.

It has no running statistics. It removes the style of an image, such as light and contrast.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax


class InstanceNorm(nn.Module):
    """Normalise each channel of each image over its pixels (Ulyanov et al. 2016).

    Attributes:
      dtype: of the result; statistics are float32 (float64 for float64 inputs).
      epsilon: added to the variance (PyTorch: 1e-5).
    """

    dtype: Any = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [b, h, w, c] to [b, h, w, c]."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = x - x.mean((1, 2), keepdims=True)
        variance = jnp.square(centred).mean((1, 2), keepdims=True)
        y = centred * (lax.rsqrt(variance + self.epsilon) * scale) + bias
        return y.astype(self.dtype)
