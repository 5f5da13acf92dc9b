"""The embedding step in the form that converters need: few operations, no loop.

It is the network of `evaluation.embed.embed_step`, computed in another way. Each convolution has
its batch normalisation in its weights, max-pooling is one operation, and the quadratic forms of the
Bi-attention are unrolled: jax2onnx 0.13 translates their loop wrongly (a matrix product over the
wrong axis). The weights are constants, computed once in NumPy. `nn.intercept_methods` of Flax
replaces the calls of the network's modules, which stay unchanged.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from batnet_jax.evaluation.embed import embed_step
from batnet_jax.models import BATNet
from batnet_jax.models.depthwise import DepthwiseConv, xla_depthwise_conv
from batnet_jax.models.layers import BatchNorm, ConvBN
from batnet_jax.models.pooling import MaxPool
from batnet_jax.models.second_order import shift_table


def embed_folded(variables: dict[str, Any], images: jax.Array, *, model: BATNet) -> jax.Array:
    """Return the features of `embed_step`, except for rounding.

    Args:
      variables: `params` and `batch_stats`, NumPy or JAX arrays, not traced.
      images: [b, h, w, 3] bytes; b may be symbolic.
      model: the network, of dtype float32.
    Returns: [b, d] float32.
    """
    with nn.intercept_methods(_fold):
        return embed_step(variables, images, model=model)


_REPLACED = (ConvBN, BatchNorm, DepthwiseConv, MaxPool)


def _fold(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
    """Replace a call of one of `_REPLACED`; make any other call unchanged."""
    module = context.module
    if context.method_name != "__call__" or not isinstance(module, _REPLACED):
        return call(*args, **kwargs)
    if isinstance(module, MaxPool):
        return _pool(module, args[0])
    variables: Any = module.variables
    params, stats = variables["params"], variables.get("batch_stats", {})
    if isinstance(module, DepthwiseConv):
        return xla_depthwise_conv(args[0], params["kernel"])
    if isinstance(module, BatchNorm):
        scale, shift = _affine(params, stats, module.epsilon)
        return jnp.add(jnp.multiply(args[0], _float32(scale)), _float32(shift))
    return _convolve(module, args[0], params, stats)


def _pool(module: MaxPool, x: jax.Array) -> jax.Array:
    """Pool by one operation; `max_pool` has a view for each place, for the sake of its gradient."""
    x = jnp.pad(x, [(0, 0), *map(tuple, module.padding), (0, 0)])  # zeros: x is never negative
    side, strides = (module.window,) * 2, (module.stride,) * 2
    return nn.max_pool(x, window_shape=side, strides=strides, padding="VALID")


def _convolve(module: ConvBN, x: jax.Array, params: Mapping, stats: Mapping) -> jax.Array:
    """Compute `ConvBN` with the normalisation in the kernel and the bias."""
    scale, shift = _affine(params["bn"], stats["bn"], module.epsilon)
    conv = params["conv"]
    bias = shift + scale * np.asarray(conv.get("bias", 0.0), np.float64)
    kernel: Any = _float32(scale * np.asarray(conv["kernel"], np.float64))
    if module.second_order:
        y = unrolled_forms(x, kernel[0, 0])
    else:
        y = lax.conv_general_dilated(
            x,
            kernel,
            (module.stride, module.stride),
            [(module.kernel_size // 2, module.kernel_size // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    y = jnp.add(y, _float32(bias))  # jnp.add, not +, so that ONNX's Add broadcasts
    return nn.relu(y) if module.relu else y


def _affine(params: Mapping, stats: Mapping, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the scale and shift of batch normalisation by running statistics, float64."""
    scale, bias = (np.asarray(params.get(name, 0.0), np.float64) for name in ("scale", "bias"))
    mean, var = (np.asarray(stats[name], np.float64) for name in ("mean", "var"))
    scale = scale / np.sqrt(var + epsilon)
    return scale, bias - mean * scale


def _float32(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32)


def unrolled_forms(x: jax.Array, kernel: np.ndarray) -> jax.Array:
    """Return `second_order.quadratic_forms`, with the loop over the blocks of pairs unrolled.

    Args:
      x: [..., c].
      kernel: [c (c + 1) / 2, features], its rows in the order of `bilinear`.
    Returns: [..., features].
    """
    channels = x.shape[-1]
    no_weights = np.zeros((1, kernel.shape[1]), kernel.dtype)  # for pairs past the end
    rows = np.concatenate([kernel, no_weights])
    twice = jnp.concatenate([x, x], axis=-1)
    forms = []
    for shifts, pairs in zip(*shift_table(channels), strict=True):
        others = [twice[..., shift : shift + channels] for shift in shifts.tolist()]
        products = jnp.concatenate([x * other for other in others], axis=-1)
        forms.append(products @ rows[pairs.ravel()])
    return sum(forms[1:], forms[0])
