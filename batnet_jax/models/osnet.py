"""OSNet, the light backbone of many trackers and re-identification programs.

Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019, and "Learning
Generalisable Omni-Scale Representations for Person Re-Identification", TPAMI 2021: `osnet_ibn` and
`osnet_ain`, with instance normalisation. The layers follow the authors' weights.
"""

from collections.abc import Mapping
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from batnet_jax.models.depthwise import DepthwiseConv
from batnet_jax.models.googlenet import Pool, downsample, scaled
from batnet_jax.models.instance_norm import InstanceNorm
from batnet_jax.models.layers import BatchNorm, Conv, ConvBN

WIDTHS: Mapping[int, int] = {1: 64, 2: 256, 3: 384, 4: 512}  # channels of Blk1 to Blk4
STREAMS = 4  # streams of an omni-scale block; stream t has t light convolutions
BOTTLENECK = 4  # channels of an omni-scale block over those of a stream
GATE_REDUCTION = 16
_HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

NONE, AFTER, INSIDE = "none", "after", "inside"
"""An omni-scale block's instance normalisation: none, after the sum, or inside the residual."""


class Variant(NamedTuple):
    """A variant of OSNet.

    Attributes:
      width: multiplier of all channels.
      norms: of the two omni-scale blocks of Blk2, Blk3 and Blk4.
      stem_norm: the first convolution has instance normalisation, not batch normalisation.
    """

    width: float
    norms: Mapping[int, tuple[str, str]]
    stem_norm: bool


_PLAIN = {number: (NONE, NONE) for number in (2, 3, 4)}
_IBN = {**_PLAIN, 2: (AFTER, AFTER)}
# Found by the search of the second paper.
_AIN = {2: (INSIDE, INSIDE), 3: (NONE, INSIDE), 4: (INSIDE, NONE)}
MULTIPLIERS = {"x1_0": 1.0, "x0_75": 0.75, "x0_5": 0.5, "x0_25": 0.25}
BACKBONES: Mapping[str, Variant] = {
    **{f"osnet_{name}": Variant(width, _PLAIN, False) for name, width in MULTIPLIERS.items()},
    "osnet_ibn_x1_0": Variant(1.0, _IBN, True),
    **{f"osnet_ain_{name}": Variant(width, _AIN, True) for name, width in MULTIPLIERS.items()},
}


class LightConv(nn.Module):
    """A light 3x3 convolution: 1x1, depthwise 3x3, BN, ReLU (ICCV paper, Fig. 3b).

    Attributes:
      float32_output, axis_name, dtype: see `ConvBN`.
    """

    float32_output: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map [b, h, w, c] to [b, h, w, c], >= 0."""
        x, _ = Conv(x.shape[-1], 1, 1, False, _HE, self.dtype, name="pointwise")(x)
        x = DepthwiseConv(_HE, self.dtype, name="depthwise")(x)
        dtype = self.dtype
        if self.float32_output:
            dtype = jnp.promote_types(dtype, jnp.float32)
        return nn.relu(BatchNorm(self.axis_name, dtype, name="bn")(x, train=train))


class Gate(nn.Module):
    """The share of each channel of a stream, from the stream's means (ICCV paper, 3.2).

    All streams of a block share the gate.

    Attributes:
      dtype: of the result.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [b, h, w, c] to x times its gates in [0, 1]."""
        channels = x.shape[-1]
        dtype = jnp.promote_types(self.dtype, jnp.float32)

        def dense(x, features, name):
            x, bias = Conv(features, 1, 1, True, _HE, dtype, name=name)(x)
            return x if bias is None else x + bias

        gates = x.astype(dtype).mean((1, 2), keepdims=True)
        gates = nn.relu(dense(gates, max(1, channels // GATE_REDUCTION), "fc1"))
        gates = nn.sigmoid(dense(gates, channels, "fc2"))
        return x * gates.astype(x.dtype)


class OmniScaleBlock(nn.Module):
    """Streams of different depth, and so of different scale, with a gated sum beside a shortcut.

    Attributes:
      outer: channels of the result.
      norm: `NONE`, `AFTER` or `INSIDE`.
      project: make the shortcut a 1x1 convolution, not the input itself.
      float32_output, axis_name, dtype: see `ConvBN`.
    """

    outer: int
    norm: str = NONE
    project: bool = False
    float32_output: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map [b, h, w, c] to [b, h, w, outer], >= 0."""
        options = {
            "float32_output": self.float32_output,
            "axis_name": self.axis_name,
            "dtype": self.dtype,
        }
        conv = partial(ConvBN, use_bias=False, **options)
        inner = max(1, self.outer // BOTTLENECK)
        shared = conv(inner, name="conv1")(x, train=train)
        gate, streams = Gate(self.dtype, name="gate"), []
        for depth in range(1, STREAMS + 1):
            y = shared
            for i in range(depth):
                y = LightConv(name=f"stream{depth}_light{i}", **options)(y, train=train)
            streams.append(gate(y))
        total = reduce(jnp.add, streams)
        if self.norm == INSIDE:
            y, _ = Conv(self.outer, 1, 1, False, _HE, self.dtype, name="conv3")(total)
            y = self._instance_norm()(y)
        else:
            y = conv(self.outer, relu=False, name="conv3")(total, train=train)
        if self.project:
            x = conv(self.outer, relu=False, name="downsample")(x, train=train)
        y = x + y
        return nn.relu(self._instance_norm()(y) if self.norm == AFTER else y)

    def _instance_norm(self) -> InstanceNorm:
        dtype = self.dtype
        if self.float32_output:
            dtype = jnp.promote_types(dtype, jnp.float32)
        return InstanceNorm(dtype, name="instance_norm")


class Stem(nn.Module):
    """Blk1: the 7x7 convolution and the pooling.

    Attributes:
      variant: see `Variant`.
      width: multiplier of the channels, besides the variant's own.
      axis_name, dtype: see `ConvBN`.
    """

    variant: Variant
    width: float = 1.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map normalised images [b, h, w, 3] to p1, [b, h / 4, w / 4, 64], >= 0."""
        channels = scaled(WIDTHS[1], self.width * self.variant.width)
        if self.variant.stem_norm:
            x, _ = Conv(channels, 7, 2, False, _HE, self.dtype, name="conv1")(x)
            x = nn.relu(InstanceNorm(self.dtype, name="instance_norm")(x))
        else:
            options = {"axis_name": self.axis_name, "dtype": self.dtype}
            stem = ConvBN(channels, 7, stride=2, use_bias=False, name="conv1", **options)
            x = stem(x, train=train)
        return downsample(x, Pool(3, 1))


class Block(nn.Module):
    """Blk2, Blk3 or Blk4: two omni-scale blocks, a 1x1 convolution and, except in Blk4, a mean.

    Blk4's layers return at least float32; see `googlenet.Block`.

    Attributes:
      number: 2, 3 or 4.
      variant, width, axis_name, dtype: see `Stem`.
    """

    number: int
    variant: Variant
    width: float = 1.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map the map at the previous position to the next one, >= 0.

        p2 is [b, h / 8, w / 8, 256], p3 [b, h / 16, w / 16, 384], p4 [b, h / 16, w / 16, 512], all
        channels times the widths.
        """
        options = {
            "float32_output": self.number == 4,
            "axis_name": self.axis_name,
            "dtype": self.dtype,
        }
        channels = scaled(WIDTHS[self.number], self.width * self.variant.width)
        for i, norm in enumerate(self.variant.norms[self.number]):
            project = x.shape[-1] != channels
            x = OmniScaleBlock(channels, norm, project, name=f"unit{i}", **options)(x, train=train)
        x = ConvBN(channels, use_bias=False, name="transition", **options)(x, train=train)
        return x if self.number == 4 else halve(x)


def halve(x: jax.Array) -> jax.Array:
    """Return the means of 2x2 pixels of [b, h, w, c]; an odd last row or column is left out."""
    b, height, width, c = x.shape
    rows, columns = height // 2, width // 2
    quarters = x[:, : 2 * rows, : 2 * columns].reshape(b, rows, 2, columns, 2, c)
    # Faster on a CPU than a mean, whose loop over four numbers is the innermost.
    return reduce(jnp.add, [quarters[:, :, i, :, j] for i in (0, 1) for j in (0, 1)]) / 4
