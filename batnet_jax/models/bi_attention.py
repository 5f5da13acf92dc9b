"""Bi-attention, with and without Attention in Attention (section 3, Eq. 1-6).

Its second stage is a kernel's feature map. The paper takes Bi(), the feature map of the
second-order polynomial kernel. The journal extension (Fang et al., "Attention in Attention Networks
for Person Retrieval", TPAMI 2021) adds a linear feature map and one that approximates the Gaussian
kernel. `KERNELS` has all three.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from batnet_jax.models.layers import ConvBN
from batnet_jax.models.second_order import pair_means
from batnet_jax.runtime.own_code import choose

FOURIER_SEED = 20210415  # of the random projection; another seed makes checkpoints useless


def linear(x: jax.Array) -> jax.Array:
    """Return the first-order feature map: x itself (published code)."""
    return x


def bilinear(x: jax.Array) -> jax.Array:
    """Return Bi(x) = Vec(UTri(x x^T)), the products of all unordered pairs of channels (Eq. 1, 2).

    Args:
      x: [..., c].
    Returns: [..., c (c + 1) / 2]; pairs (0, 0), (0, 1), ..., (0, c - 1), (1, 1), ...: the upper
      triangle row by row.
    """
    rows = [x[..., i : i + 1] * x[..., i:] for i in range(x.shape[-1])]
    return jnp.concatenate(rows, axis=-1)


def fourier_projection(channels: int, features: int, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the constants W and b of random Fourier features (Rahimi & Recht 2007).

    The constants are not parameters: nothing trains, decays or saves them. They depend on the
    arguments only, and are the same in every process and on every machine except for rounding.

    Args:
      channels: of the input.
      features: D.
      sigma: of the Gaussian kernel, in the input's units.
    Returns: W [channels, features] of N(0, 1 / sigma^2) and b [features] of U[0, 2 pi), float64.
    """
    # Not `default_rng`: only RandomState's stream is the same in all versions of NumPy (NEP 19),
    # and a checkpoint is useless without the projection it was trained with.
    rng = np.random.RandomState(FOURIER_SEED)
    weights = rng.standard_normal((channels, features)) / sigma
    return weights, rng.uniform(0, 2 * np.pi, features)


def random_fourier(x: jax.Array, *, factor: int, bandwidth: float) -> jax.Array:
    """Return random Fourier features sqrt(2 / D) cos(W^T x + b) of the Gaussian kernel.

    Their inner products approximate exp(-|x - y|^2 / (2 sigma^2)), with an error of 1 / sqrt(D).
    The cosine's argument is in float32 at least.

    Args:
      x: [..., c].
      factor: D / c.
      bandwidth: sigma / sqrt(c), as distances grow with sqrt(c).
    Returns: [..., D].
    """
    channels = x.shape[-1]
    features = factor * channels
    weights, phases = fourier_projection(channels, features, bandwidth * math.sqrt(channels))
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    # By default a TPU multiplies in bfloat16, with errors up to 0.03 where the argument is 8.
    angles = jnp.matmul(x.astype(dtype), weights.astype(dtype), precision="highest")
    return (math.sqrt(2 / features) * jnp.cos(angles + phases.astype(dtype))).astype(x.dtype)


KERNELS: Mapping[str, Callable[..., jax.Array]] = {
    "bilinear": bilinear,
    "linear": linear,
    "rff": random_fourier,
}


@jax.custom_vjp
def gated(x: jax.Array, gate: jax.Array) -> jax.Array:
    """Multiply a map [b, h, w, c] by a gate [b, 1, 1, c].

    The backward pass holds one map less than JAX's own. It computes the gate's gradient first; the
    gradient of x waits for it, and can then overwrite the incoming gradient in memory.
    """
    return x * gate


def _gated_backward(saved, d):
    x, gate = saved
    d_gate = (d * x).sum((1, 2), keepdims=True)
    return d * (gate + 0 * d_gate), d_gate


gated.defvjp(lambda x, gate: (x * gate, (x, gate)), _gated_backward)


class BiAttention(nn.Module):
    """A block that masks a map by statistics of its channels; fits into any NHWC network.

    With AiA (Eq. 3-5): z = sigmoid(varpi(m) * phi(K(embed(x)))), m the spatial mean of K().
    Without AiA (Eq. 6): z = sigmoid(phi(K(embed(x)))). The result is z * x. K is the kernel's
    feature map, in the paper Bi().

    Attributes:
      reduction: r; the embedding has c / r channels (section 3.1; Table 7).
      attention_in_attention: with AiA, as in the paper's BAT-net; False: the simplified block of
        section 3.2.
      kernel: a key of `KERNELS`, or a function that maps [..., c] to [..., D].
      rff_factor: "rff" only: random Fourier features for each channel of the embedding.
      rff_bandwidth: "rff" only: sigma / sqrt(c / r). At 0.58 the cosine's argument starts with unit
        variance over the pixels; the published code normalises it to unit variance.
      axis_name: see `layers.BatchNorm`.
      dtype: of the computation; parameters are float32.
    """

    reduction: int = 4
    attention_in_attention: bool = True
    kernel: str | Callable[..., jax.Array] = "bilinear"
    rff_factor: int = 4
    rff_bandwidth: float = 0.58
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map [b, h, w, c] to the masked [b, h, w, c]."""
        return x * self.mask(x, train=train)

    @nn.compact
    def mask(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Return the mask z, [b, h, w, c] in [1/2, 1): embeddings end in a ReLU (section 4.4)."""
        channels = x.shape[-1]
        shared = {"axis_name": self.axis_name, "dtype": self.dtype}
        embedded = ConvBN(max(1, channels // self.reduction), name="embed", **shared)(
            x, train=train
        )
        second_order = self.kernel == "bilinear"
        if second_order:  # Bi() would not fit in memory: its consumers take its operand instead
            mapped = embedded
        else:
            options = {"factor": self.rff_factor, "bandwidth": self.rff_bandwidth}
            kernel = choose(KERNELS, self.kernel)
            mapped = kernel(embedded, **(options if self.kernel == "rff" else {}))
        local = ConvBN(channels, second_order=second_order, name="local", **shared)(
            mapped, train=train
        )
        if self.attention_in_attention:
            mean = pair_means(embedded) if second_order else mapped.mean((1, 2), keepdims=True)
            local = gated(local, ConvBN(channels, name="global", **shared)(mean, train=train))
        return nn.sigmoid(local)
