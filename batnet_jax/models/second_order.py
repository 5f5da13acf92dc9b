"""The two uses of Bi(x) in Bi-attention, computed without Bi(x).

Bi(x) has the products of all unordered pairs of channels. At the paper's size (c = 120), Bi(x) has
7,260 channels, and its gradient has 7,260 more. A 1x1 convolution of Bi(x) is one quadratic form of
x for each output channel: `quadratic_forms` holds a block of pairs at a time. The spatial mean of
Bi(x) is the triangle of a Gram matrix: `pair_means`.

The pairs come from cyclic shifts: x and x rolled by s give the pairs (i, i + s mod c) by two
slices. The shifts s = 0 .. c / 2 give every pair once, except that s = c / 2 (c even) gives its
pairs twice; `shift_table` leaves the repeated pairs out. The weights stay in the order of Eq. 2,
and each block gathers its own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax

BLOCK = 512
"""The most pairs in a block, unless c is larger. It is about the number of the convolution's
outputs, so that a block takes no more memory than these outputs. At c = 120, batch 64, on 2 CPU
cores, forward and backward take 1.20, 1.09, 1.05, 1.04, 1.21 s with blocks of 120, 240, 480, 960,
1920 pairs."""


def shift_table(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the shifts, in blocks, and each pair's index in the upper triangle, row by row.

    Args:
      channels: c.
    Returns: shifts [blocks, shifts] and pairs [blocks, shifts, c], int32. Channel i and channel
      i + shifts[b, s] mod c are the pair pairs[b, s, i]. Where another shift already gives the
      pair, its index is c (c + 1) / 2, one past the end. No shift exceeds c.
    """
    count = channels // 2 + 1
    blocks = -(-count // max(1, BLOCK // channels))
    shifts = np.arange(blocks * -(-count // blocks), dtype=np.int32)
    i = np.arange(channels)
    j = (i + shifts[:, None]) % channels
    low, high = np.minimum(i, j), np.maximum(i, j)
    pairs = low * channels - low * (low - 1) // 2 + high - low
    duplicate = (shifts[:, None] >= count) | ((2 * shifts[:, None] == channels) & (i >= j))
    pairs = np.where(duplicate, channels * (channels + 1) // 2, pairs).astype(np.int32)
    return shifts.reshape(blocks, -1), pairs.reshape(blocks, -1, channels)


def _stack_twice(x):
    """Return [n, c] as [2 c, n]; rows s to s + c are the channels rolled by s."""
    return jnp.concatenate([x.T, x.T])


def _pair_products(twice, shifts):
    """Return the products of a block's pairs, [shifts * c, n]."""
    channels = len(twice) // 2
    rolled = [lax.dynamic_slice_in_dim(twice, shift, channels) for shift in shifts]
    return jnp.concatenate([twice[:channels] * other for other in rolled])


def _kernel_rows(kernel, pairs):
    """Return the kernel's rows for a block's pairs, zeros for duplicates."""
    return kernel.at[pairs.ravel()].get(mode="fill", fill_value=0)


def _dot(a, b, axes, dtype):
    """Return the product of two matrices, summed over the given axes."""
    return lax.dot_general(a, b, (((axes[0],), (axes[1],)), ((), ())), preferred_element_type=dtype)


@jax.custom_vjp
def quadratic_forms(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return bilinear(x) @ kernel; compute it and its gradient a block of pairs at a time.

    Sums are in float32 at least. Only the first reverse-mode derivative is defined.

    Args:
      x: [n, c].
      kernel: [c (c + 1) / 2, features], of x's type, its rows in the order of `bilinear`.
    Returns: [n, features], of x's type.
    """
    return _forward(x, kernel)[0]


def _forward(x, kernel):
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    twice = _stack_twice(x)

    def add(y, block):
        shifts, pairs = block
        products = _pair_products(twice, shifts)
        return y + _dot(products, _kernel_rows(kernel, pairs), (0, 0), dtype), None

    y = jnp.zeros((x.shape[0], kernel.shape[1]), dtype)  # x.shape[0] may be symbolic
    y, _ = lax.scan(add, y, shift_table(x.shape[1]))
    return y.astype(x.dtype), (x, kernel)


def _backward(saved, dy):
    x, kernel = saved
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    channels = x.shape[1]
    twice = _stack_twice(x)

    # Zeros that depend on dy: XLA would allocate constant zeros early, and hold them meanwhile.
    zero = 0 * dy[0, 0].astype(dtype)

    def add(sums, block):
        d_twice, d_kernel = sums
        shifts, pairs = block
        d_block = _dot(_pair_products(twice, shifts), dy, (1, 0), dtype)
        d_kernel = d_kernel.at[pairs.ravel()].set(d_block.astype(kernel.dtype), mode="drop")
        d_products = _dot(_kernel_rows(kernel, pairs), dy, (1, 1), dtype)
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
    """Return the spatial mean of bilinear(x): the upper triangle of X^T X / (h w), row by row.

    Args:
      x: [b, h, w, c].
    Returns: [b, 1, 1, c (c + 1) / 2].
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    # At the default precision a TPU would round x to bfloat16; full precision costs next to
    # nothing.
    gram = jnp.einsum("bhwi,bhwj->bij", x, x, precision="highest", preferred_element_type=dtype)
    rows, columns = np.triu_indices(x.shape[-1])
    means = gram[:, rows, columns] / (x.shape[1] * x.shape[2])
    return means.astype(x.dtype)[:, None, None]


class SecondOrderConv(nn.Module):
    """The convolution `layers.Conv` of bilinear(x), computed from x, with the same parameters.

    Attributes: as in `nn.Conv`.
    """

    features: int
    use_bias: bool
    kernel_init: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Map [..., c] to [..., features], and return the bias, not added, or None."""
        channels = x.shape[-1]
        shape = (1, 1, channels * (channels + 1) // 2, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        y = quadratic_forms(x.reshape(-1, channels), kernel[0, 0])
        return y.reshape(*x.shape[:-1], self.features), bias
