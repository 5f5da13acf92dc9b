"""A tape: NumPy float64 values that remember how they were made, and so know their gradients.

Each operation stands beside its gradient, and there are no more of them than `support/network_oracle.py` needs.
"""

import itertools

import numpy as np

_serial = itertools.count()


class Tensor:
    """A float64 array on the tape.

    Attributes:
      value: the array.
      parents: the tensors that it was made from.
      pull: maps the gradient of the value to those of the parents' values, in their order.
      grad: set by `backward`, on the tensor it is called on and on all that made it.
    """

    __array_ufunc__ = None  # ndarray + Tensor is ours, not an array of objects

    def __init__(self, value, parents=(), pull=None):
        self.value = np.asarray(value, np.float64)
        self.parents, self.pull, self.grad = parents, pull, None
        self.serial = next(_serial)

    def backward(self):
        """Sets the gradients of this scalar: last made, first served."""
        found, stack = {id(self): self}, [self]
        while stack:
            for parent in stack.pop().parents:
                if id(parent) not in found:
                    found[id(parent)] = parent
                    stack.append(parent)
        for tensor in found.values():
            tensor.grad = np.zeros(tensor.shape)
        self.grad = np.ones(())
        for tensor in sorted(found.values(), key=lambda one: one.serial, reverse=True):
            if tensor.parents:
                for parent, part in zip(tensor.parents, tensor.pull(tensor.grad), strict=True):
                    parent.grad = parent.grad + part

    @property
    def shape(self):
        return self.value.shape

    def __len__(self):
        return len(self.value)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.value, dtype)

    def __float__(self):
        return float(self.value)

    def __lt__(self, other):
        return float(self) < float(other)

    def __gt__(self, other):
        return float(self) > float(other)

    def __add__(self, other):
        other = tensor(other)
        return _broadcast(self, other, self.value + other.value, lambda dy: (dy, dy))

    def __mul__(self, other):
        other = tensor(other)
        a, b = self.value, other.value
        return _broadcast(self, other, a * b, lambda dy: (dy * b, dy * a))

    def __truediv__(self, other):
        other = tensor(other)
        a, b = self.value, other.value
        return _broadcast(self, other, a / b, lambda dy: (dy / b, -dy * a / b**2))

    def __matmul__(self, other):
        """[m, n] @ [n, p]."""
        other = tensor(other)
        a, b = self.value, other.value
        return Tensor(a @ b, (self, other), lambda dy: (dy @ b.T, a.T @ dy))

    def __getitem__(self, index):
        def pull(dy):
            dx = np.zeros(self.shape)
            np.add.at(dx, index, dy)
            return (dx,)

        return Tensor(self.value[index], (self,), pull)

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + -tensor(other)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other):
        return tensor(other) - self

    def __rtruediv__(self, other):
        return tensor(other) / self

    def reshape(self, *shape):
        return Tensor(self.value.reshape(shape), (self,), lambda dy: (dy.reshape(self.shape),))

    def sum(self, axes=None):
        def pull(dy):
            return (np.broadcast_to(dy if axes is None else np.expand_dims(dy, axes), self.shape),)

        return Tensor(self.value.sum(axes), (self,), pull)

    def mean(self, axes):
        total = self.sum(axes)
        return total / (self.value.size / total.value.size)


def tensor(x):
    """The tensor itself, or a constant as one."""
    return x if isinstance(x, Tensor) else Tensor(x)


def _broadcast(a, b, value, pull):
    """The result of an elementwise operation: gradients are summed where a value was repeated."""

    def summed(dx, shape):
        dx = dx.sum(tuple(range(dx.ndim - len(shape))))
        return dx.sum(tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)

    def pull_summed(dy):
        return tuple(summed(dx, x.shape) for dx, x in zip(pull(dy), (a, b), strict=True))

    return Tensor(value, (a, b), pull_summed)


def exp(x):
    y = np.exp(x.value)
    return Tensor(y, (x,), lambda dy: (dy * y,))


def log(x):
    return Tensor(np.log(x.value), (x,), lambda dy: (dy / x.value,))


def sqrt(x):
    y = np.sqrt(x.value)
    return Tensor(y, (x,), lambda dy: (dy / (2 * y),))


def relu(x):
    positive = x.value > 0
    return Tensor(np.where(positive, x.value, 0), (x,), lambda dy: (dy * positive,))


def concatenate(xs, axis):
    ends = np.cumsum([x.shape[axis] for x in xs])[:-1]
    joined = np.concatenate([x.value for x in xs], axis)
    return Tensor(joined, tuple(xs), lambda dy: np.split(dy, ends, axis))


def _windows(x, side, stride):
    """[b, h, w, c] to every square window, [b, rows, columns, side, side, c]."""
    views = np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))
    return np.moveaxis(views[:, ::stride, ::stride], 3, -1)


def _add_windows(dy, shape, pads, stride):
    """The gradient of an unpadded [b, h, w, c] from that of the windows of its padded self."""
    (top, bottom), (left, right) = pads
    batch, height, width, channels = shape
    dx = np.zeros((batch, top + height + bottom, left + width + right, channels))
    rows, columns, side = dy.shape[1:4]
    for i in range(side):
        for j in range(side):
            here = np.s_[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
            dx[here] += dy[:, :, :, i, j]
    return dx[:, top : top + height, left : left + width]


def conv2d(x, kernel, *, pads, stride):
    """[b, h, w, c] and [side, side, c, d] to [b, h', w', d]; pads: rows' and columns', of zeros."""
    columns = _windows(np.pad(x.value, [(0, 0), *pads, (0, 0)]), kernel.shape[0], stride)
    own, over = [3, 4, 5], [0, 1, 2]

    def pull(dy):
        d_columns = np.tensordot(dy, kernel.value, (3, 3))
        return (
            _add_windows(d_columns, x.shape, pads, stride),
            np.tensordot(columns, dy, (over, over)),
        )

    return Tensor(np.tensordot(columns, kernel.value, (own, over)), (x, kernel), pull)


def max_pool2d(x, *, side, pads, stride):
    """[b, h, w, c] to [b, h', w', c]; the gradient goes to a window's first maximum (PyTorch)."""
    padded = np.pad(x.value, [(0, 0), *pads, (0, 0)], constant_values=-np.inf)
    windows = _windows(padded, side, stride)
    shape = windows.shape
    flat = windows.reshape(*shape[:3], side * side, shape[5])
    first = np.arange(side * side)[:, None] == flat.argmax(3)[:, :, :, None]

    def pull(dy):
        return (_add_windows((dy[:, :, :, None] * first).reshape(shape), x.shape, pads, stride),)

    return Tensor(flat.max(3), (x,), pull)
