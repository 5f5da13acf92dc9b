"""The depthwise 3x3 convolution, in the form that is fast on each kind of device.

XLA's convolution with a group for each channel takes a hundred times longer on a CPU than its
arithmetic. On a CPU the convolution is therefore a sum of nine shifted maps, each times a number
for each channel: XLA fuses the sum into one loop over pixels, whose innermost channels fill the
vector registers. The gradient with respect to the map is the same sum with the kernel reversed. For
the gradient with respect to the kernel XLA would also go channel by channel; a loop over the rows
adds whole rows instead. On other devices the convolution is XLA's own.
"""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax

SIDE = 3
"""The side of the kernel."""


@jax.custom_vjp
def depthwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve each channel with its own 3x3 kernel; zeros surround the map.

    Only the first reverse-mode derivative is defined.

    Args:
      x: [b, h, w, c].
      kernel: [3, 3, 1, c], of x's type.
    Returns: [b, h, w, c].
    """
    return lax.platform_dependent(x, kernel, cpu=_sum_of_shifts, default=xla_depthwise_conv)


def _forward(x, kernel):
    return depthwise_conv(x, kernel), (x, kernel)


def _backward(saved, gradient):
    return lax.platform_dependent(*saved, gradient, cpu=_gradients, default=_xla_gradients)


depthwise_conv.defvjp(_forward, _backward)


def xla_depthwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Compute `depthwise_conv` by XLA's convolution, which ONNX has, too."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(SIDE // 2, SIDE // 2)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _xla_gradients(x, kernel, gradient):
    return jax.vjp(xla_depthwise_conv, x, kernel)[1](gradient)


def _surround(x):
    """Put a row or column of zeros at each edge of a map."""
    return jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])


def _sum_of_shifts(x, kernel):
    return _add_shifts(_surround(x), kernel)


def _add_shifts(padded, kernel):
    height, width = (size - 2 for size in padded.shape[1:3])
    shifts = [
        padded[:, i : i + height, j : j + width] * kernel[i, j, 0]
        for i in range(SIDE)
        for j in range(SIDE)
    ]
    return reduce(jnp.add, shifts)


def _gradients(x, kernel, gradient):
    """Return the gradients with respect to the map and to the kernel.

    The kernel's gradient holds, for each place of the kernel, the sum over images and pixels
    of the map times the shifted gradient. Each row of the map meets three rows of the gradient, and
    their products are added to one array [b, 3, w, c] for each shift of the columns. The three
    arrays stay in the cache.
    """
    padded = _surround(gradient)
    by_map = _add_shifts(padded, kernel[::-1, ::-1])
    b, height, width, c = x.shape
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    at_once = next(rows for rows in (4, 2, 1) if height % rows == 0)  # each turn costs some time

    def add_rows(turn, totals):
        for row in range(at_once):
            first = turn * at_once + row
            window = lax.dynamic_slice_in_dim(padded, first, SIDE, 1).astype(dtype)
            own = lax.dynamic_slice_in_dim(x, first, 1, 1).astype(dtype)
            totals = [total + window[:, :, j : j + width] * own for j, total in enumerate(totals)]
        return totals

    zeros = [jnp.zeros((b, SIDE, width, c), dtype)] * SIDE
    totals = lax.fori_loop(0, height // at_once, add_rows, zeros)
    sums = [total.sum((0, 2)) for total in totals]
    by_kernel = jnp.stack(sums, 1)[::-1, ::-1].reshape(kernel.shape)
    return by_map, by_kernel.astype(kernel.dtype)


class DepthwiseConv(nn.Module):
    """`depthwise_conv` with a learned kernel.

    Attributes:
      kernel_init: of the kernel.
      dtype: of the computation; the kernel is float32.
    """

    kernel_init: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [b, h, w, c] to [b, h, w, c]."""
        kernel = self.param("kernel", self.kernel_init, (SIDE, SIDE, 1, x.shape[-1]), jnp.float32)
        return depthwise_conv(*promote_dtype(x, kernel, dtype=self.dtype))
