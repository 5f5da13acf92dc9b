"""What follows Bi(x) in Bi-attention, without Bi(x): it is the largest tensor of the net by far.

A 1x1 convolution of Bi(x) is one quadratic form of x for each output channel, and the spatial mean
of Bi(x) is the triangle of the Gram matrix of x over the pixels (section 3, Eq. 1-5). The pairs of
channels come by cyclic shifts: x times x moved by s, for s = 0 .. c / 2, has each unordered pair
once. A few shifts at a time are made, multiplied, and forgotten; the gradient makes them again.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax

# Shifts at a time. More are no faster, and the products of each are as large as x.
SHIFTS = 4


def pair_indices(channels: int) -> np.ndarray:
    """Where Bi() has the pair {i, i + s mod c}: [shifts, c], or c (c + 1) / 2 where it came before.

    There are c // 2 + 1 shifts. Of an even c's last one each pair comes twice.
    """
    first = np.arange(channels)
    second = (first + np.arange(channels // 2 + 1)[:, None]) % channels
    low, high = np.minimum(first, second), np.maximum(first, second)
    place = low * channels - low * (low - 1) // 2 + high - low
    if channels % 2 == 0:
        place[-1, channels // 2 :] = channels * (channels + 1) // 2
    return place


def _blocks(channels: int) -> tuple[np.ndarray, int]:
    """`pair_indices` in blocks of shifts, [blocks, k c], and k."""
    place = pair_indices(channels)
    shifts = min(SHIFTS, len(place))
    missing = -len(place) % shifts
    nowhere = channels * (channels + 1) // 2
    place = np.pad(place, [(0, missing), (0, 0)], constant_values=nowhere)
    return place.reshape(-1, shifts * channels), shifts


@jax.custom_vjp
def quadratic_forms(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Bi(x) times a matrix, for each row.

    Args:
      x: [n, c].
      kernel: [c (c + 1) / 2, d]: its rows are in the order of Bi().
    Returns: [n, d]; summed in float32 at least.
    """
    return _forward(x, kernel)[0]


def _forward(x, kernel):
    channels = x.shape[1]
    place, shifts = _blocks(channels)

    def step(total, block):
        number, where = block
        views = _views(x, around, number, shifts)
        products = jnp.concatenate([x * view for view in views], axis=1)
        return total + _dot(products, _rows(kernel, where), 1, 0), None

    around = _around(x, len(place) * shifts)
    total = jnp.zeros((len(x), kernel.shape[1]), _wide(x.dtype))
    total, _ = lax.scan(step, total, (jnp.arange(len(place)), place))
    return total.astype(x.dtype), (x, kernel)


def _backward(saved, gradient):
    x, kernel = saved
    rows, channels = x.shape
    place, shifts = _blocks(channels)

    def step(carry, block):
        d_x, d_around, d_kernel = carry
        number, where = block
        views = _views(x, around, number, shifts)
        products = jnp.concatenate([x * view for view in views], axis=1)
        d_rows = _dot(products, gradient, 0, 0).astype(kernel.dtype)
        d_kernel = d_kernel.at[where].set(d_rows, mode="drop", unique_indices=True)
        d_products = _dot(gradient, _rows(kernel, where), 1, 1).reshape(rows, shifts, channels)
        d_window = jnp.zeros((rows, channels + shifts - 1), d_x.dtype)
        for j, view in enumerate(views):
            d_x += d_products[:, j] * view
            d_window = d_window.at[:, j : j + channels].add(d_products[:, j] * x)
        start = (0, number * shifts)
        d_window += lax.dynamic_slice(d_around, start, d_window.shape)
        d_around = lax.dynamic_update_slice(d_around, d_window, start)
        return (d_x, d_around, d_kernel), None

    around = _around(x, len(place) * shifts)
    wide = _wide(x.dtype)
    # Plain zeros XLA would make early, and hold while it finds the gradient that comes in.
    zero = 0 * gradient[0, 0]
    carry = tuple(
        jnp.full(shape, zero.astype(dtype))
        for shape, dtype in ((x.shape, wide), (around.shape, wide), (kernel.shape, kernel.dtype))
    )
    (d_x, d_around, d_kernel), _ = lax.scan(step, carry, (jnp.arange(len(place)), place))
    for start in range(0, around.shape[1], channels):
        turn = d_around[:, start : start + channels]
        d_x = d_x.at[:, : turn.shape[1]].add(turn)
    return d_x.astype(x.dtype), d_kernel


quadratic_forms.defvjp(_forward, _backward)


def _wide(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    contracted = ((axis_a,), (axis_b,)), ((), ())
    return lax.dot_general(a, b, contracted, preferred_element_type=_wide(a.dtype))


def _around(x: jax.Array, shifts: int) -> jax.Array:
    """X, once more, and so on: [n, c + shifts - 1], to take its shifts from."""
    width = x.shape[1] + shifts - 1
    return jnp.tile(x, (1, -(-width // x.shape[1])))[:, :width]


def _views(x: jax.Array, around: jax.Array, number: jax.Array, shifts: int) -> list[jax.Array]:
    """X moved by each shift of a block."""
    channels = x.shape[1]
    size = (len(x), channels + shifts - 1)
    window = lax.dynamic_slice(around, (0, number * shifts), size)
    return [window[:, j : j + channels] for j in range(shifts)]


def _rows(kernel: jax.Array, where: jax.Array) -> jax.Array:
    """Rows of the matrix; zeros where there are none."""
    return kernel.at[where].get(mode="fill", fill_value=0)


def mean_of_pairs(x: jax.Array) -> jax.Array:
    """Bi(x)'s mean over the pixels (m of section 3.1).

    Args:
      x: [b, h, w, c].
    Returns: [b, 1, 1, c (c + 1) / 2].
    """
    batch, height, width, channels = x.shape
    rows = x.reshape(batch, height * width, channels)
    gram = jnp.einsum(
        "bnc,bnd->bcd", rows, rows, precision="highest", preferred_element_type=_wide(x.dtype)
    )
    first, second = np.triu_indices(channels)
    mean = gram[:, first, second] / (height * width)
    return mean.astype(x.dtype)[:, None, None]


class BilinearConv(nn.Module):
    """A 1x1 convolution of Bi(x), from x; its parameters are those of `nn.Conv` behind Bi().

    Attributes:
      features: output channels.
      use_bias: whether it has one.
      kernel_init: of the kernel.
      dtype: of the computation; parameters are float32.
    """

    features: int
    use_bias: bool
    kernel_init: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [b, h, w, c] to [b, h, w, features]."""
        channels = x.shape[-1]
        shape = (1, 1, channels * (channels + 1) // 2, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        y = quadratic_forms(x.reshape(-1, channels), kernel[0, 0])
        y = y.reshape(*x.shape[:-1], self.features)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(
                y.dtype
            )
        return y
