"""What Bi-attention needs of Bi(x), without Bi(x): the products of all unordered pairs of channels.

At the paper's size (c = 120) Bi(x) has 7,260 channels, and its gradient as many. But a 1x1
convolution of it is a quadratic form of x for each output channel, of which `quadratic_forms`
holds a few pairs at a time, and its spatial mean is the triangle of a Gram matrix, `pair_means`.

The pairs are taken by cyclic shifts: x and x rolled by s make the pairs (i, i + s mod c) with
two slices; s = 0 .. c / 2 makes every pair once (where c is even, s = c / 2 makes its pairs twice,
of which one is left out). Weights stay in the order of Eq. 2, and are gathered block by block.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax

BLOCK = 512
"""Pairs in a block, at most, unless c is larger: about as many as the convolution has outputs, so
that a block takes no more memory than they do. At c = 120, batch 64, on 2 CPU cores, forward and
backward take 1.20, 1.09, 1.05, 1.04, 1.21 s with blocks of 120, 240, 480, 960, 1920 pairs."""


def shift_table(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """The shifts, in blocks, and where their pairs stand in the upper triangle, row by row.

    Args:
      channels: c.
    Returns: shifts [blocks, shifts] and pairs [blocks, shifts, c], int32: channel i and channel
      i + shifts[b, s] mod c make the pair pairs[b, s, i]; c (c + 1) / 2, which is past the end,
      where another shift has made it. No shift is beyond c.
    """
    count = channels // 2 + 1
    blocks = -(-count // max(1, BLOCK // channels))
    shifts = np.arange(blocks * -(-count // blocks), dtype=np.int32)
    i = np.arange(channels)
    j = (i + shifts[:, None]) % channels
    low, high = np.minimum(i, j), np.maximum(i, j)
    pairs = low * channels - low * (low - 1) // 2 + high - low
    again = (shifts[:, None] >= count) | ((2 * shifts[:, None] == channels) & (i >= j))
    pairs = np.where(again, channels * (channels + 1) // 2, pairs).astype(np.int32)
    return shifts.reshape(blocks, -1), pairs.reshape(blocks, -1, channels)


def _twice(x):
    """[n, c] to [2 c, n]: a roll of the channels by s is the slice of c whole rows from s on."""
    return jnp.concatenate([x.T, x.T])


def _products(twice, shifts):
    """A block's pairs, [shifts * c, n]."""
    channels = len(twice) // 2
    rolled = [lax.dynamic_slice_in_dim(twice, shift, channels) for shift in shifts]
    return jnp.concatenate([twice[:channels] * other for other in rolled])


def _weights(kernel, pairs):
    """The rows of a block's pairs, zeros for those that are past the end."""
    return kernel.at[pairs.ravel()].get(mode="fill", fill_value=0)


def _dot(a, b, over, dtype):
    """The product of two matrices, summed over these axes of theirs."""
    return lax.dot_general(a, b, (((over[0],), (over[1],)), ((), ())), preferred_element_type=dtype)


@jax.custom_vjp
def quadratic_forms(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """bilinear(x) @ kernel, a block of pairs at a time; the gradient makes the products again.

    Sums are in float32 at least. It has a reverse-mode gradient of the first order only.

    Args:
      x: [n, c].
      kernel: [c (c + 1) / 2, features], of x's type, its rows in the order of `bilinear`.
    Returns: [n, features], of x's type.
    """
    return _forward(x, kernel)[0]


def _forward(x, kernel):
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    twice = _twice(x)

    def add(y, block):
        shifts, pairs = block
        products = _products(twice, shifts)
        return y + _dot(products, _weights(kernel, pairs), (0, 0), dtype), None

    y = jnp.zeros((x.shape[0], kernel.shape[1]), dtype)  # x.shape[0] may be a symbol
    y, _ = lax.scan(add, y, shift_table(x.shape[1]))
    return y.astype(x.dtype), (x, kernel)


def _backward(saved, dy):
    x, kernel = saved
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    channels = x.shape[1]
    twice = _twice(x)

    # Zeros that wait for dy: XLA makes plain ones early, and holds them while it makes dy.
    zero = 0 * dy[0, 0].astype(dtype)

    def add(sums, block):
        d_twice, d_kernel = sums
        shifts, pairs = block
        d_block = _dot(_products(twice, shifts), dy, (1, 0), dtype)
        d_kernel = d_kernel.at[pairs.ravel()].set(d_block.astype(kernel.dtype), mode="drop")
        d_products = _dot(_weights(kernel, pairs), dy, (1, 1), dtype)
        for k, shift in enumerate(shifts):
            d = d_products[k * channels : (k + 1) * channels]
            d_twice = d_twice.at[:channels].add(
                d * lax.dynamic_slice_in_dim(twice, shift, channels)
            )
            old = lax.dynamic_slice_in_dim(d_twice, shift, channels)
            d_twice = lax.dynamic_update_slice_in_dim(d_twice, old + d * twice[:channels], shift, 0)
        return (d_twice, d_kernel), None

    sums = jnp.full(twice.shape, zero), jnp.full(kernel.shape, zero.astype(kernel.dtype))
    (d_twice, d_kernel), _ = lax.scan(add, sums, shift_table(channels))
    d_columns = d_twice[:channels] + d_twice[channels:]
    return d_columns.T.astype(x.dtype), d_kernel


quadratic_forms.defvjp(_forward, _backward)


def pair_means(x: jax.Array) -> jax.Array:
    """The spatial mean of bilinear(x): the upper triangle of X^T X / (h w), row by row.

    Args:
      x: [b, h, w, c].
    Returns: [b, 1, 1, c (c + 1) / 2].
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    # At the default precision a TPU would round x to bfloat16, and this costs next to nothing.
    gram = jnp.einsum("bhwi,bhwj->bij", x, x, precision="highest", preferred_element_type=dtype)
    rows, columns = np.triu_indices(x.shape[-1])
    means = gram[:, rows, columns] / (x.shape[1] * x.shape[2])
    return means.astype(x.dtype)[:, None, None]


class SecondOrderConv(nn.Module):
    """`layers.Conv` of bilinear(x), given x: the same parameters, the same values.

    Attributes: as those of `nn.Conv`.
    """

    features: int
    use_bias: bool
    kernel_init: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Maps [..., c] to [..., features], and the bias, not added, if there is one."""
        channels = x.shape[-1]
        shape = (1, 1, channels * (channels + 1) // 2, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        y = quadratic_forms(x.reshape(-1, channels), kernel[0, 0])
        return y.reshape(*x.shape[:-1], self.features), bias
