"""Max-pooling of maps without negative values, so that zero padding is exact.

The gradient of XLA's `reduce_window` is a select-and-scatter, which is slow on CPUs and GPUs. On
these devices each place of the window is a shifted view of the map, and the result is the maximum
of the views.

On a CPU, the backward pass finds the place of each window's maximum again, and adds the output's
gradient at this place. XLA compiles the loops of both passes on their own: fused with their
neighbours, they would be computed again for each reader. On a TPU, which has instructions for both,
`reduce_window` and select-and-scatter take half of the cycles of the views. On a GPU the maximum is
taken along the rows, then along the columns, and JAX derives the gradient.
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

Padding = Sequence[tuple[int, int]]


class _Geometry(NamedTuple):
    stride: int
    padding: tuple[tuple[int, int], ...]
    window: int


# XLA does not inline a call to a jitted function in this context. The function must not call
# another jitted function, as many of `jax.numpy` are: that call would not be inlined either.
_not_inlined = partial(set_xla_metadata, inlineable="false")


def max_pool(x: jax.Array, *, stride: int, padding: Padding, window: int = 3) -> jax.Array:
    """Max-pool a map without negative values.

    If the largest values in a window are equal, the first of them gets the gradient: the first by
    column, then by row. PyTorch, and we on a TPU, take the first by row, then by column. After a
    ReLU, equal values are zeros, through which no gradient passes. In bfloat16, rounding makes
    other values equal, too.

    Args:
      x: [b, h, w, c], >= 0.
      stride: 1 or 2.
      padding: (before, after) of the rows and of the columns.
      window: its side, 2 or 3.
    Returns: [b, h', w', c], h' = (h + before + after - window) // stride + 1.
    """
    rows, columns = padding
    return _pool(x, _Geometry(stride, ((rows[0], rows[1]), (columns[0], columns[1])), window))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _pool(x, geometry):
    def on_cpu(x):
        with _not_inlined():
            return _window_max(x, geometry)

    def on_tpu(x):
        return _pool_by_window(x, geometry)

    by_axes = partial(_pool_by_axes, geometry=geometry)
    return lax.platform_dependent(x, cpu=on_cpu, tpu=on_tpu, default=by_axes)


def _pool_forward(x, geometry):
    return _pool(x, geometry), x


def _pool_backward(geometry, x, gradient):
    def on_cpu(x, gradient):
        with _not_inlined():
            return _scatter(_window_argmax(x, geometry), gradient, x.shape[1:3], geometry)

    def by_jax(pool):
        return lambda x, gradient: jax.vjp(partial(pool, geometry=geometry), x)[1](gradient)[0]

    ways = {"cpu": on_cpu, "tpu": by_jax(_pool_by_window), "default": by_jax(_pool_by_axes)}
    return (lax.platform_dependent(x, gradient, **ways),)


_pool.defvjp(_pool_forward, _pool_backward)


def _pool_by_window(x, geometry):
    """Pool by XLA's own window, whose gradient is a select-and-scatter."""
    stride, padding, window = geometry
    sides, strides = (1, window, window, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, sides, strides, ((0, 0), *padding, (0, 0)))


def _pool_by_axes(x, geometry):
    """Pool the rows, then the columns, by maxima of `window` views, whose gradients are selects."""
    stride, padding, window = geometry
    for axis, pad in zip((1, 2), padding, strict=True):
        widths = [(0, 0)] * x.ndim
        widths[axis] = pad
        x = jnp.pad(x, widths)
        size = (x.shape[axis] - window) // stride + 1
        views = [
            lax.slice_in_dim(x, k, k + (size - 1) * stride + 1, stride, axis) for k in range(window)
        ]
        x = reduce(lambda a, b: jnp.where(a >= b, a, b), views)
    return x


def _views(x, geometry):
    """Return a view [b, h', w', c] for each place of the window, column by column."""
    stride, padding, window = geometry
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*p, 0) for p in padding), (0, 0, 0)])
    b, h, w, c = x.shape
    rows, columns = ((size - window) // stride * stride + 1 for size in (h, w))
    return [
        lax.slice(x, (0, i, j, 0), (b, i + rows, j + columns, c), (1, stride, stride, 1))
        for j in range(window)
        for i in range(window)
    ]


@partial(jax.jit, static_argnums=1)
def _window_max(x, geometry):
    return reduce(lax.max, _views(x, geometry))


@partial(jax.jit, static_argnums=1)
def _window_argmax(x, geometry):
    """Return the number of each window's maximum, the first of the `_views`: [b, h', w', c]."""
    best, *others = _views(x, geometry)
    number = lax.full(best.shape, 0, jnp.uint8)
    for k, view in enumerate(others, 1):
        number = lax.select(view > best, lax.full(best.shape, k, jnp.uint8), number)
        best = lax.max(best, view)
    return number


@partial(jax.jit, static_argnums=(2, 3))
def _scatter(number, gradient, size, geometry):
    """Add the gradient [b, h', w', c] at the place of each window's maximum: [b, *size, c].

    Let stride * a + r be a padded row, 0 <= r < stride. The windows that cover it start at the rows
    stride * (a - d), and see it as their row r + stride * d. The same holds for columns.
    """
    stride, padding, window = geometry
    # The numbers of values of a, and the largest d.
    counts = [-(-(n + sum(p)) // stride) for n, p in zip(size, padding, strict=True)]
    reach = (window - 1) // stride
    widths = [(reach, n - have, 0) for n, have in zip(counts, gradient.shape[1:3], strict=True)]
    number, gradient = (
        lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *widths, (0, 0, 0)])
        for x in (number, gradient)
    )
    b, _, _, c = gradient.shape
    full = (b, counts[0], stride, counts[1], stride, c)

    def earlier(x, down, right):
        start = reach - down, reach - right
        x = lax.slice(x, (0, *start, 0), (b, start[0] + counts[0], start[1] + counts[1], c))
        return lax.broadcast_in_dim(x, full, (0, 1, 3, 5))

    row, column = (lax.broadcasted_iota(jnp.uint8, full, axis) for axis in (2, 4))
    zero = lax.full(full, 0, gradient.dtype)
    total = zero
    # The number of a place is j * window + i. No window has a row i >= window: i < window is
    # checked, as the number would be one of the next column. Nor has any a column j >= window,
    # whose number would be too large.
    for right in range(reach + 1):
        for down in range(reach + 1):
            i, j = row + jnp.uint8(stride * down), column + jnp.uint8(stride * right)
            wins = (earlier(number, down, right) == j * jnp.uint8(window) + i) & (i < window)
            total += lax.select(wins, earlier(gradient, down, right), zero)
    total = lax.reshape(total, (b, counts[0] * stride, counts[1] * stride, c))
    top, left = padding[0][0], padding[1][0]
    return lax.slice(total, (0, top, left, 0), (b, top + size[0], left + size[1], c))


class MaxPool(nn.Module):
    """`max_pool` as a module, so that an export can recognise and replace it.

    Attributes: the arguments of `max_pool`.
    """

    stride: int
    padding: Padding
    window: int = 3

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [b, h, w, c], >= 0, to [b, h', w', c]."""
        return max_pool(x, stride=self.stride, padding=self.padding, window=self.window)


def ceil_padding(size: int, window: int = 3) -> tuple[int, int]:
    """Return the padding that makes pooling at stride 2 cover every row (PyTorch's `ceil_mode`)."""
    return 0, (size - window) % 2
