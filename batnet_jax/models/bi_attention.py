"""Bi-attention, with and without Attention in Attention (section 3, Eq. 1-6)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from batnet_jax.models.layers import ConvBN


def bilinear(x: jax.Array) -> jax.Array:
    """Bi(x) = Vec(UTri(x x^T)), the products of all unordered pairs of channels (Eq. 1 and 2).

    Args:
      x: [..., c].
    Returns: [..., c (c + 1) / 2]; pairs (0, 0), (0, 1), ..., (0, c - 1), (1, 1), ...: the upper
      triangle row by row.
    """
    rows = [x[..., i : i + 1] * x[..., i:] for i in range(x.shape[-1])]
    return jnp.concatenate(rows, axis=-1)


class BiAttention(nn.Module):
    """Masks a map by second-order statistics of its channels; drops into any NHWC network.

    With AiA (Eq. 3-5): z = sigmoid(varpi(m) * phi(Bi(embed(x)))), m the spatial mean of Bi().
    Without (Eq. 6): z = sigmoid(phi(Bi(embed(x)))). The result is z * x.

    Attributes:
      reduction: r; the embedding has c / r channels (section 3.1; Table 7).
      attention_in_attention: with AiA, as the paper's BAT-net, or the simplified block of 3.2.
      axis_name: see `layers.BatchNorm`.
      dtype: of the computation; parameters are float32.
    """

    reduction: int = 4
    attention_in_attention: bool = True
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps [b, h, w, c] to the masked [b, h, w, c]."""
        return x * self.mask(x, train=train)

    @nn.compact
    def mask(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """The mask z, [b, h, w, c] in [1/2, 1): the embeddings end in a ReLU (section 4.4)."""
        channels = x.shape[-1]
        shared = {"axis_name": self.axis_name, "dtype": self.dtype}
        embedded = ConvBN(max(1, channels // self.reduction), name="embed", **shared)(
            x, train=train
        )
        second_order = bilinear(embedded)
        local = ConvBN(channels, name="local", **shared)(second_order, train=train)
        if self.attention_in_attention:
            mean = second_order.mean((1, 2), keepdims=True)
            local = local * ConvBN(channels, name="global", **shared)(mean, train=train)
        return nn.sigmoid(local)
