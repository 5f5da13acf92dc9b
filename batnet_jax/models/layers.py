"""The layers that every block shares: convolution with BN and ReLU, and dropout.

Three of them replace Flax's layer, for a reason:

* `BatchNorm` keeps the *unbiased* running variance, as PyTorch (the paper's framework, section 4.4)
  does and Flax does not. It computes statistics in float32, whatever the type of the activations.
* `Conv` returns its bias and does not add it: `BatchNorm` subtracts the mean of the batch, and the
  bias with it.
* `Dropout` draws one mask for the global batch and takes this device's rows, so that a run does not
  depend on the number of devices.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax

from batnet_jax.models.second_order import SecondOrderConv

MAX_SQUARED_MEAN = 16
"""The limit of the squared mean, in units of the variance. Above it, the variance as the difference
of the mean square and the squared mean loses more than four bits."""


def _axis_size(axis_name: str | None) -> int:
    return lax.axis_size(axis_name) if axis_name else 1


def _pmean(x: Any, axis_name: str | None) -> Any:
    return lax.pmean(x, axis_name) if axis_name else x


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _normalise(x, scale, bias, guess, epsilon, axis_name):
    """Return x normalised, its mean and its variance; `guess` is a value near the mean."""
    return _normalise_forward(x, scale, bias, guess, epsilon, axis_name)[0]


def _normalise_forward(x, scale, bias, guess, epsilon, axis_name):
    x_float32 = _at_least_float32(x)
    ways = {"cuda": _moments_on_cuda, "cpu": _moments_on_cpu, "tpu": _moments_on_tpu}
    mean, var = lax.platform_dependent(x_float32, guess, **ways, default=_moments)
    if axis_name:  # the variance within each device, and of the devices' means
        own, mean = mean, lax.pmean(mean, axis_name)
        var = lax.pmean(var + jnp.square(own - mean), axis_name)
    inverse = lax.rsqrt(var + epsilon)
    y = (x_float32 - mean) * (inverse * scale) + bias
    return (y, mean, var), (x, scale, mean, inverse)


def _normalise_backward(epsilon, axis_name, saved, cotangents):
    """Return the textbook gradient, with its two means taken over all devices.

    The mean and the variance, as outputs, have no gradient.
    """
    saved_x, scale, mean, inverse = saved  # x in its own type: bfloat16 takes half the memory
    x, dy = _at_least_float32(saved_x), cotangents[0]
    count = x.size // x.shape[-1]
    d_bias, products = lax.platform_dependent(
        *(dy, x, mean, inverse),
        cuda=_gradient_sums_on_cuda,
        cpu=_gradient_sums_on_cpu,
        default=_gradient_sums,
    )
    d_scale = products * inverse
    mean_dy, mean_dy_x = _pmean((d_bias / count, d_scale / count), axis_name)
    dx = (inverse * scale) * (dy - mean_dy - (x - mean) * (inverse * mean_dy_x))
    d_scale, d_bias = d_scale.astype(scale.dtype), d_bias.astype(scale.dtype)
    return dx.astype(saved_x.dtype), d_scale, d_bias, jnp.zeros_like(d_bias)


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _at_least_float32(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _sum(x):
    """Sum over all axes but the last."""
    return x.sum(tuple(range(x.ndim - 1)))


def _moments(x, _=None):
    """Return the mean and the variance of [..., c] over all axes but the last, each [c]."""
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    return mean, jnp.square(x - mean).mean(axes)


def _gradient_sums(dy, x, mean, _):
    """Return the sums of dy and of dy (x - mean), each [c]."""
    return _sum(dy), _sum(dy * (x - mean))


def _moments_on_cpu(x, _=None):
    """Return `_moments` by the sums of x and of its square.

    On a CPU, XLA stores the operand of a sum, except a square or a product, and x - mean is as
    large as x. If the mean of any channel is too large for this formula, x - mean is summed.
    """
    axes = tuple(range(x.ndim - 1))
    mean, squares = x.mean(axes), jnp.square(x).mean(axes)
    var = squares - jnp.square(mean)
    return mean, lax.cond(
        jnp.any(~(jnp.square(mean) <= MAX_SQUARED_MEAN * var)),
        lambda x, mean, var: jnp.square(x - mean).mean(axes),
        lambda x, mean, var: var,
        *(x, mean, var),
    )


def _gradient_sums_on_cpu(dy, x, mean, inverse):
    """Return `_gradient_sums` by the sums of dy and of dy x, unless a mean is too large for it."""
    d_bias = _sum(dy)
    return d_bias, lax.cond(
        jnp.any(~(jnp.square(mean * inverse) <= MAX_SQUARED_MEAN)),
        lambda dy, x, mean, d_bias: _sum(dy * (x - mean)),
        lambda dy, x, mean, d_bias: _sum(dy * x) - mean * d_bias,
        *(dy, x, mean, d_bias),
    )


def _joint_sums(a, b):
    """Return `_sum` of a and of b, computed by one reduction.

    The maps of most layers are so small that on a GPU the number of kernels sets the cost. On a CPU
    a joint reduction is neither vectorised nor summed in pairs.
    """
    zero = jnp.zeros((), a.dtype)
    axes = tuple(range(a.ndim - 1))
    return lax.reduce((a, b), (zero, zero), lambda p, q: (p[0] + q[0], p[1] + q[1]), axes)


def _gradient_sums_on_cuda(dy, x, mean, _):
    return _joint_sums(dy, dy * (x - mean))


def _moments_on_cuda(x, _=None):
    """Return `_moments` by one pass over x, from the sums of x - pixel and of its square.

    `pixel` is one pixel of the map. It is about as far from the mean as other values are, so the
    difference of squares loses few bits, however large the mean is.
    """
    pixel = x[(0, *(size // 2 for size in x.shape[1:-1]))]
    shifted, count = x - pixel, x.size // x.shape[-1]
    sums, squares = _joint_sums(shifted, jnp.square(shifted))
    mean = sums / count
    return pixel + mean, jnp.maximum(squares / count - jnp.square(mean), 0)


def _moments_on_tpu(x, guess):
    """Return `_moments` by one pass over x, from the sums of x - guess and of its square.

    XLA adds up both sums in the convolution that makes x. The nearer the guess is to the mean, the
    fewer bits the difference of squares loses.
    """
    shifted, axes = x - guess, tuple(range(x.ndim - 1))
    mean, squares = shifted.mean(axes), jnp.square(shifted).mean(axes)
    return guess + mean, jnp.maximum(squares - jnp.square(mean), 0)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015).

    Attributes:
      axis_name: pmap's axis, over which the statistics are taken; None: on this device only.
      dtype: of the result; statistics are float32 (float64 for float64 inputs).
      momentum: weight of the new statistics, in PyTorch's sense (published code: 0.1).
      epsilon: added to the variance (published code: 1e-5).
      use_bias: add a learned shift; False in `heads.BNNeckHead` only.
      scale_init: of the scale; zeros in `resnet.NonLocal` only.
    """

    axis_name: str | None = None
    dtype: Any = jnp.float32
    momentum: float = 0.1
    epsilon: float = 1e-5
    use_bias: bool = True
    scale_init: Any = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, offset: jax.Array | None = None) -> jax.Array:
        """Map [..., c] to [..., c]; in training, update `batch_stats`.

        Args:
          x: [b, ..., c].
          train: use batch statistics, not running statistics.
          offset: [c], a bias of x that has not been added to x. In training it changes the running
            mean only, as the mean of the batch would remove it from x; its gradient is zero.
        """
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (channels,))
        else:
            bias = jnp.zeros_like(scale)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        offset = jnp.zeros_like(scale) if offset is None else offset
        if not train:
            inverse = lax.rsqrt(running_var.value + self.epsilon)
            centred = _at_least_float32(x) - (running_mean.value - offset)
            return (centred * (inverse * scale) + bias).astype(self.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        guess = lax.stop_gradient(running_mean.value - offset)
        y, mean, var = _normalise(x, scale, bias, guess, self.epsilon, axis_name)  # type: ignore
        if not self.is_initializing():
            count = x.size // channels * _axis_size(axis_name)
            unbiased = var * (count / max(count - 1, 1))
            keep = 1 - self.momentum
            # The statistics keep their type, as after a restore, also where x is float64.
            for running, new in ((running_mean, mean + offset), (running_var, unbiased)):
                moved = keep * running.value + self.momentum * new
                running.value = moved.astype(running.value.dtype)
        return y.astype(self.dtype)


@jax.custom_vjp
def pointwise_conv(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Return [b, h, w, c] times [c, d], with a gradient that transposes no map.

    JAX's own gradient with respect to the matrix is the transpose of a product, for which XLA makes
    a copy of the output's gradient with the channels first.
    """
    return jnp.dot(x, matrix)


def _pointwise_conv_forward(x, matrix):
    return pointwise_conv(x, matrix), (x, matrix)


def _pointwise_conv_backward(saved, gradient):
    x, matrix = saved
    rows = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    d_matrix = lax.dot_general(*rows, (((0,), (0,)), ((), ())))
    return jnp.dot(gradient, matrix.T), d_matrix


pointwise_conv.defvjp(_pointwise_conv_forward, _pointwise_conv_backward)


class Conv(nn.Module):
    """The convolution of `nn.Conv`, with the same parameters; the bias is returned, not added.

    A 1x1 convolution at stride 1 is computed as a matrix product.

    Attributes: as in `nn.Conv`; `kernel_size` is the side of the square kernel.
    """

    features: int
    kernel_size: int
    stride: int
    use_bias: bool
    kernel_init: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Map [b, h, w, c] to [b, h / stride, w / stride, features] and the bias, if any."""
        side = self.kernel_size
        shape = (side, side, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        if side == self.stride == 1:
            return pointwise_conv(x, kernel[0, 0]), bias
        strides, padding = (self.stride,) * 2, [(side // 2, side // 2)] * 2
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)
        return y, bias


class ConvBN(nn.Module):
    """Convolution, batch normalisation, ReLU (published code, every convolution).

    Attributes:
      features: output channels.
      kernel_size: side of the square kernel, padded to keep the map's size at stride 1.
      stride: of the convolution.
      use_bias: of the convolution (published code: yes).
      second_order: convolve Bi(x) instead of x; with kernel size 1 and stride 1 only.
      epsilon: see `BatchNorm`.
      relu: apply the ReLU; False before a residual sum.
      float32_output: return at least float32, whatever the type of the convolution.
      axis_name: see `BatchNorm`.
      dtype: of the computation; parameters are float32.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    use_bias: bool = True
    second_order: bool = False
    epsilon: float = 1e-5
    relu: bool = True
    float32_output: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map [b, h, w, c] to [b, h / stride, w / stride, features], >= 0 after a ReLU."""
        shared = {
            "use_bias": self.use_bias,
            "kernel_init": nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
            "dtype": self.dtype,
            "name": "conv",
        }
        if self.second_order:
            x, bias = SecondOrderConv(self.features, **shared)(x)
        else:
            x, bias = Conv(self.features, self.kernel_size, self.stride, **shared)(x)
        dtype = self.dtype
        if self.float32_output:
            dtype = jnp.promote_types(dtype, jnp.float32)
        norm = BatchNorm(self.axis_name, dtype, epsilon=self.epsilon, name="bn")
        x = norm(x, train=train, offset=bias)
        return nn.relu(x) if self.relu else x


class Dropout(nn.Module):
    """Dropout with one mask for the global batch.

    Attributes:
      rate: probability of a zero.
      axis_name: pmap's axis; the key must be the same on all devices.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map [b, d] to [b, d]; in training, use the rng `dropout`."""
        if not train or self.rate == 0:
            return x
        axis_name = None if self.is_initializing() else self.axis_name
        rows = x.shape[0]
        shape = (rows * _axis_size(axis_name), *x.shape[1:])
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        if axis_name:
            keep = lax.dynamic_slice_in_dim(keep, lax.axis_index(axis_name) * rows, rows)
        return jnp.where(keep, x / (1 - self.rate), 0)
