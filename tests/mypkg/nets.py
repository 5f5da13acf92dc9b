"""A backbone, a head and an attention kernel of one's own, written with Flax alone."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

STRIDES = {1: 4, 2: 2, 3: 2, 4: 1}


class Block(nn.Module):
    """A block without batch normalisation, with a parameter that no layer of the package has."""

    number: int
    width: float = 1.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        stride, channels = STRIDES[self.number], round(256 * self.width)
        x = nn.Conv(channels, (3, 3), (stride, stride), dtype=self.dtype, name="conv")(x)
        x = nn.relu(nn.GroupNorm(num_groups=4, dtype=self.dtype, name="norm")(x))
        return x * self.param("gain", nn.initializers.constant(0.5), (1, 1, channels))


class CosineHead(nn.Module):
    """A head without batch normalisation, whose features have unit length."""

    num_identities: int
    embedding_dim: int
    dropout: float = 0.0
    batch_norm_axis: str | None = None
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        x = nn.Dense(self.embedding_dim, name="embedding")(x.mean((1, 2)).astype(jnp.float32))
        feature = x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-6)
        return feature, nn.Dense(self.num_identities, use_bias=False, name="classifier")(feature)


def signed_square(x: jax.Array) -> jax.Array:
    """Map [..., c] to [..., c]."""
    return x * jnp.abs(x)


NUMBER = 3
