"""Max-pooling of maps that are nowhere negative, so that zero padding is exact.

Each place of the window is a shifted view of the map; the gradient of XLA's `reduce_window` is a
select-and-scatter, which is slow on a CPU. There the gradient finds each window's winner again and
gives it the output's gradient, in loops that XLA compiles by themselves: merged into what stands
around them they would be worked out again for each reader. Elsewhere the maximum is taken along the
rows, then along the columns, and the gradient is JAX's.
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


class _Form(NamedTuple):
    stride: int
    padding: tuple[tuple[int, int], ...]
    window: int


# A call of a jitted function under this is not merged into what stands around it. The function must
# call none that is jitted itself, as much of `jax.numpy` is: that would be apart, too.
_apart = partial(set_xla_metadata, inlineable="false")


def max_pool(x: jax.Array, *, stride: int, padding: Padding, window: int = 3) -> jax.Array:
    """Max-pooling of a map that is nowhere negative.

    Of equal values the one in the first column has the gradient, there the one in the first row; in
    PyTorch rows go first. Behind a ReLU ties are zeros, whose gradient goes no further; in bfloat16
    there are others.

    Args:
      x: [b, h, w, c], >= 0.
      stride: 1 or 2.
      padding: rows' and columns' (before, after).
      window: its side, 2 or 3.
    Returns: [b, h', w', c], h' = (h + before + after - window) // stride + 1.
    """
    rows, columns = padding
    return _pool(x, _Form(stride, ((rows[0], rows[1]), (columns[0], columns[1])), window))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _pool(x, form):
    def greatest(x):
        with _apart():
            return _greatest(x, form)

    return lax.platform_dependent(x, cpu=greatest, default=partial(_by_axes, form=form))


def _pool_forward(x, form):
    return _pool(x, form), x


def _pool_backward(form, x, gradient):
    def by_winners(x, gradient):
        with _apart():
            return _spread(_winner(x, form), gradient, x.shape[1:3], form)

    def by_jax(x, gradient):
        return jax.vjp(partial(_by_axes, form=form), x)[1](gradient)[0]

    return (lax.platform_dependent(x, gradient, cpu=by_winners, default=by_jax),)


_pool.defvjp(_pool_forward, _pool_backward)


def _by_axes(x, form):
    """Rows, then columns, each the greatest of `window` views, whose gradient is a few selects."""
    stride, padding, window = form
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


def _views(x, form):
    """Each place of the window, down the first column, then the next: maps [b, h', w', c]."""
    stride, padding, window = form
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*p, 0) for p in padding), (0, 0, 0)])
    b, h, w, c = x.shape
    rows, columns = ((size - window) // stride * stride + 1 for size in (h, w))
    return [
        lax.slice(x, (0, i, j, 0), (b, i + rows, j + columns, c), (1, stride, stride, 1))
        for j in range(window)
        for i in range(window)
    ]


@partial(jax.jit, static_argnums=1)
def _greatest(x, form):
    return reduce(lax.max, _views(x, form))


@partial(jax.jit, static_argnums=1)
def _winner(x, form):
    """Of each window the number of its greatest, of those the first of `_views`: [b, h', w', c]."""
    best, *others = _views(x, form)
    number = lax.full(best.shape, 0, jnp.uint8)
    for k, view in enumerate(others, 1):
        number = lax.select(view > best, lax.full(best.shape, k, jnp.uint8), number)
        best = lax.max(best, view)
    return number


@partial(jax.jit, static_argnums=(2, 3))
def _spread(number, gradient, size, form):
    """The gradient [b, h', w', c] where each window's winner is: [b, *size, c].

    With stride * a + r a padded row, 0 <= r < stride: windows that cover it begin at the rows
    stride * (a - d), and it is their row r + stride * d. So for columns.
    """
    stride, padding, window = form
    counts = [-(-(n + sum(p)) // stride) for n, p in zip(size, padding, strict=True)]  # of a
    reach = (window - 1) // stride  # the greatest d
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
    # An i of `window` or more would be in a number of the next column; such a j is in none.
    for right in range(reach + 1):
        for down in range(reach + 1):
            i, j = row + jnp.uint8(stride * down), column + jnp.uint8(stride * right)
            wins = (earlier(number, down, right) == j * jnp.uint8(window) + i) & (i < window)
            total += lax.select(wins, earlier(gradient, down, right), zero)
    total = lax.reshape(total, (b, counts[0] * stride, counts[1] * stride, c))
    top, left = padding[0][0], padding[1][0]
    return lax.slice(total, (0, top, left, 0), (b, top + size[0], left + size[1], c))


class MaxPool(nn.Module):
    """`max_pool` as a module: an export has other words for it, and finds it by its type.

    Attributes: as the arguments of `max_pool`.
    """

    stride: int
    padding: Padding
    window: int = 3

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [b, h, w, c], >= 0, to [b, h', w', c]."""
        return max_pool(x, stride=self.stride, padding=self.padding, window=self.window)


def ceil_padding(size: int, window: int = 3) -> tuple[int, int]:
    """Padding by which pooling at stride 2 covers every row: PyTorch's `ceil_mode`, unpadded."""
    return 0, (size - window) % 2
