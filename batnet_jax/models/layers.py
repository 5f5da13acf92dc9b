"""The layers that every block shares: convolution + BN + ReLU, dropout.

Three of them are our own where Flax has one, for stated reasons:

* `BatchNorm` keeps the *unbiased* running variance, as PyTorch (the paper's framework, section 4.4)
  does and Flax does not, and takes its statistics in float32 whatever the activations' type.
* `Conv` returns its bias, which `BatchNorm` need not add: a batch's own mean takes it away again.
* `Dropout` draws one mask for the global batch and takes this device's rows of it, so that a run
  does not depend on the number of devices.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax

from batnet_jax.models.second_order import SecondOrderConv

FAR = 16  # variances: by a larger square of a mean, a difference of squares loses over four bits


def _axis_size(axis_name: str | None) -> int:
    return lax.axis_size(axis_name) if axis_name else 1


def _pmean(x: Any, axis_name: str | None) -> Any:
    return lax.pmean(x, axis_name) if axis_name else x


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalise(x, scale, bias, epsilon, axis_name):
    return _normalise_forward(x, scale, bias, epsilon, axis_name)[0]


def _normalise_forward(x, scale, bias, epsilon, axis_name):
    wide = _widen(x)
    mean, var = lax.platform_dependent(
        wide, cuda=_joint_moments, cpu=_quick_moments, default=_moments
    )
    if axis_name:  # the variance of this device's images, and of the devices' means
        own, mean = mean, lax.pmean(mean, axis_name)
        var = lax.pmean(var + jnp.square(own - mean), axis_name)
    inverse = lax.rsqrt(var + epsilon)
    y = (wide - mean) * (inverse * scale) + bias
    return (y, mean, var), (x, scale, mean, inverse)


def _normalise_backward(epsilon, axis_name, saved, cotangents):
    """The textbook gradient, whose two means are over all devices; mean and var carry none."""
    saved_x, scale, mean, inverse = saved  # in bfloat16 half as much to keep as in float32
    x, dy = _widen(saved_x), cotangents[0]
    count = x.size // x.shape[-1]
    d_bias, products = lax.platform_dependent(
        *(dy, x, mean, inverse), cuda=_joint_products, cpu=_quick_products, default=_products
    )
    d_scale = products * inverse
    mean_dy, mean_dy_x = _pmean((d_bias / count, d_scale / count), axis_name)
    dx = (inverse * scale) * (dy - mean_dy - (x - mean) * (inverse * mean_dy_x))
    return dx.astype(saved_x.dtype), d_scale.astype(scale.dtype), d_bias.astype(scale.dtype)


def _sum(x):
    """Over all axes but the last."""
    return x.sum(tuple(range(x.ndim - 1)))


def _moments(x):
    """Mean and variance of [..., c] over all axes but the last, each [c]."""
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    return mean, jnp.square(x - mean).mean(axes)


def _products(dy, x, mean, _):
    """The sums of dy and of dy (x - mean), each [c]."""
    return _sum(dy), _sum(dy * (x - mean))


def _quick_moments(x):
    """`_moments` by the sums of x and of its square, for a CPU.

    There XLA writes down what it sums, but for squares and products, and x - mean is as large as x.
    Where one channel's mean is too far from zero, x - mean is summed after all.
    """
    axes = tuple(range(x.ndim - 1))
    mean, squares = x.mean(axes), jnp.square(x).mean(axes)
    var = squares - jnp.square(mean)
    return mean, lax.cond(
        jnp.any(~(jnp.square(mean) <= FAR * var)),
        lambda x, mean, var: jnp.square(x - mean).mean(axes),
        lambda x, mean, var: var,
        *(x, mean, var),
    )


def _quick_products(dy, x, mean, inverse):
    """`_products` by the sums of dy and dy x, for a CPU and where no mean is far, as above."""
    d_bias = _sum(dy)
    return d_bias, lax.cond(
        jnp.any(~(jnp.square(mean * inverse) <= FAR)),
        lambda dy, x, mean, d_bias: _sum(dy * (x - mean)),
        lambda dy, x, mean, d_bias: _sum(dy * x) - mean * d_bias,
        *(dy, x, mean, d_bias),
    )


def _joint_sums(a, b):
    """`_sum` of a and of b by one reduction.

    On a GPU, where the maps of most layers are so small that kernels cost by their number, half as
    many. On a CPU it is not vectorised, and not summed in pairs.
    """
    zero = jnp.zeros((), a.dtype)
    axes = tuple(range(a.ndim - 1))
    return lax.reduce((a, b), (zero, zero), lambda p, q: (p[0] + q[0], p[1] + q[1]), axes)


def _joint_products(dy, x, mean, _):
    return _joint_sums(dy, dy * (x - mean))


def _joint_moments(x):
    """`_moments` by one reading of x, for a GPU: by the sums of x - near and of its square.

    near is the value of one pixel, about as far from the mean as values are: so the difference of
    the squares loses few bits, however large the mean is.
    """
    near = x[(0, *(size // 2 for size in x.shape[1:-1]))]
    away, count = x - near, x.size // x.shape[-1]
    sums, squares = _joint_sums(away, jnp.square(away))
    mean = sums / count
    return near + mean, jnp.maximum(squares / count - jnp.square(mean), 0)


def _widen(x):
    """At least float32, in which statistics are taken."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


_normalise.defvjp(_normalise_forward, _normalise_backward)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015).

    Attributes:
      axis_name: pmap's axis over which the statistics are shared; None for this device's alone.
      dtype: of the result; statistics are float32 (float64 for float64 inputs).
      momentum: weight of the new statistics, in PyTorch's sense (published code: 0.1).
      epsilon: added to the variance (published code: 1e-5).
      use_bias: whether a learned shift is added; only a `neck.BNNeckHead`'s has none.
    """

    axis_name: str | None = None
    dtype: Any = jnp.float32
    momentum: float = 0.1
    epsilon: float = 1e-5
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, offset: jax.Array | None = None) -> jax.Array:
        """Maps [..., c] to [..., c]; in training updates `batch_stats`.

        Args:
          x: [b, ..., c].
          train: batch statistics, or running statistics.
          offset: [c], which belongs to x and was not added to it. It changes the running mean
            alone, as a batch's own mean takes it away again; so its gradient is zero.
        """
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (channels,))
        else:
            bias = jnp.zeros_like(scale)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        offset = jnp.zeros_like(scale) if offset is None else offset
        if not train:
            inverse = lax.rsqrt(running_var.value + self.epsilon)
            y = (_widen(x) - (running_mean.value - offset)) * (inverse * scale) + bias
            return y.astype(self.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        y, mean, var = _normalise(x, scale, bias, self.epsilon, axis_name)  # type: ignore
        if not self.is_initializing():
            count = x.size // channels * _axis_size(axis_name)
            unbiased = var * (count / max(count - 1, 1))
            keep = 1 - self.momentum
            # A type of their own, as a restored checkpoint's would be, also in float64.
            for running, new in ((running_mean, mean + offset), (running_var, unbiased)):
                moved = keep * running.value + self.momentum * new
                running.value = moved.astype(running.value.dtype)
        return y.astype(self.dtype)


@jax.custom_vjp
def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """[b, h, w, c] times [c, d], with a gradient for which nothing is turned round.

    JAX's own, by the matrix, is a product's transpose, for which XLA writes the output's gradient
    channels first, once more.
    """
    return jnp.dot(x, matrix)


def _product_forward(x, matrix):
    return product(x, matrix), (x, matrix)


def _product_backward(saved, gradient):
    x, matrix = saved
    rows = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    by_matrix = lax.dot_general(*rows, (((0,), (0,)), ((), ())))
    return jnp.dot(gradient, matrix.T), by_matrix


product.defvjp(_product_forward, _product_backward)


class Conv(nn.Module):
    """The parameters of `nn.Conv`; its bias is returned, not added.

    A 1x1 convolution at stride 1 is the matrix product that it is.

    Attributes: as those of `nn.Conv`; `kernel` is the side of the square kernel.
    """

    features: int
    kernel: int
    stride: int
    use_bias: bool
    kernel_init: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Maps [b, h, w, c] to [b, h / stride, w / stride, features], and the bias if there is."""
        side = self.kernel
        shape = (side, side, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        if side == self.stride == 1:
            return product(x, kernel[0, 0]), bias
        strides, padding = (self.stride,) * 2, [(side // 2, side // 2)] * 2
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)
        return y, bias


class ConvBN(nn.Module):
    """Convolution, batch normalisation, ReLU (published code, every convolution).

    Attributes:
      features: output channels.
      kernel: side of the square kernel, padded to keep the size at stride 1.
      stride: of the convolution.
      use_bias: of the convolution (published code: yes).
      second_order: convolve Bi(x) instead of x; with kernel 1 and stride 1 only.
      epsilon: see `BatchNorm`.
      relu: whether there is one; not before a residual sum.
      wide: hand on at least float32, whatever the convolution computes in.
      axis_name: see `BatchNorm`.
      dtype: of the computation; parameters are float32.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    use_bias: bool = True
    second_order: bool = False
    epsilon: float = 1e-5
    relu: bool = True
    wide: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [b, h, w, c] to [b, h / stride, w / stride, features], >= 0 behind a ReLU."""
        shared = {
            "use_bias": self.use_bias,
            "kernel_init": nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
            "dtype": self.dtype,
            "name": "conv",
        }
        if self.second_order:
            x, bias = SecondOrderConv(self.features, **shared)(x)
        else:
            x, bias = Conv(self.features, self.kernel, self.stride, **shared)(x)
        dtype = jnp.promote_types(self.dtype, jnp.float32) if self.wide else self.dtype
        norm = BatchNorm(self.axis_name, dtype, epsilon=self.epsilon, name="bn")
        x = norm(x, train=train, offset=bias)
        return nn.relu(x) if self.relu else x


class Dropout(nn.Module):
    """Dropout whose mask is drawn for the global batch.

    Attributes:
      rate: probability of a zero.
      axis_name: pmap's axis; the key must be the same on all devices.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [b, d] to [b, d]; needs the rng `dropout` in training."""
        if not train or self.rate == 0:
            return x
        axis_name = None if self.is_initializing() else self.axis_name
        rows = x.shape[0]
        shape = (rows * _axis_size(axis_name), *x.shape[1:])
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        if axis_name:
            keep = lax.dynamic_slice_in_dim(keep, lax.axis_index(axis_name) * rows, rows)
        return jnp.where(keep, x / (1 - self.rate), 0)
