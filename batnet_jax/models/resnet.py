"""ResNet-50 as person retrieval uses it, the backbone of the strong baselines.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, in the form of torchvision's
ImageNet weights: a bottleneck has its stride in its 3x3 convolution, not in its first 1x1. The
last stage keeps the size of its map (Luo et al., "Bag of Tricks and a Strong Baseline for Deep
Person Re-identification", CVPR Workshops 2019, "Last Stride"); no weight depends on this.

`BACKBONES` has the variants: with instance normalisation (Pan et al., "Two at Once: Enhancing
Learning and Generalization Capacities via IBN-Net", ECCV 2018, IBN-a), and FastReID's, which pool
without padding and may have non-local blocks (Wang et al., "Non-local Neural Networks", CVPR 2018).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from batnet_jax.models.googlenet import Pool, downsample, scaled
from batnet_jax.models.instance_norm import InstanceNorm
from batnet_jax.models.layers import BatchNorm, Conv, ConvBN

STEM_WIDTH = 64
WIDTHS: Mapping[int, int] = {1: 64, 2: 128, 3: 256, 4: 512}
"""Channels of the 3x3 convolutions of each stage."""
UNITS = {1: 3, 2: 4, 3: 6, 4: 3}  # bottlenecks in each stage; tests shorten it
STRIDES: Mapping[int, int] = {1: 1, 2: 2, 3: 2, 4: 1}  # stage 4: "Last Stride"; He et al. have 2
EXPANSION = 4
NON_LOCALS: Mapping[int, int] = {1: 0, 2: 2, 3: 3, 4: 0}
"""Non-local blocks of a stage, one behind each of its last bottlenecks (FastReID)."""
_HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Variant(NamedTuple):
    """A variant of ResNet-50.

    Attributes:
      pool: behind the first convolution.
      instance_norm: the bottlenecks of the first three stages have IBN-a.
      non_local: stages have `NON_LOCALS`.
    """

    pool: Pool = Pool(3, 1)
    instance_norm: bool = False
    non_local: bool = False


_FASTREID = Variant(pool=Pool(3, None))
BACKBONES: Mapping[str, Variant] = {
    "resnet50": Variant(),
    "resnet50_ibn": Variant(instance_norm=True),
    "fastreid_r50": _FASTREID,
    "fastreid_r50_ibn": _FASTREID._replace(instance_norm=True),
    "fastreid_r50_nl": _FASTREID._replace(non_local=True),
    "fastreid_r50_ibn_nl": _FASTREID._replace(instance_norm=True, non_local=True),
}


class HalfInstanceNorm(nn.Module):
    """IBN-a: instance normalisation of the first half of the channels, BN of the others.

    Pan et al., ECCV 2018, Fig. 3(b): in a residual, behind the first convolution.

    Attributes:
      axis_name, dtype: see `ConvBN`.
    """

    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map [b, h, w, c] to [b, h, w, c]."""
        half = x.shape[-1] // 2
        own = InstanceNorm(self.dtype, name="instance")(x[..., :half])
        batch = BatchNorm(self.axis_name, self.dtype, name="batch")(x[..., half:], train=train)
        return jnp.concatenate([own, batch], axis=-1)


class NonLocal(nn.Module):
    """A non-local block: a weighted sum over all pixels, added to a shortcut.

    Wang et al., CVPR 2018, Eq. 4 with a dot product, without a softmax; FastReID embeds a pixel in
    a single channel. The products are linear, so they are taken from the right, without a matrix
    of pairs of pixels. The scale of BN begins at 0, so that the block changes nothing at first.

    Attributes:
      axis_name, dtype: see `ConvBN`.
    """

    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map [b, h, w, c] to [b, h, w, c]."""

        def conv(x, channels, name):
            x, bias = Conv(channels, 1, 1, True, _HE, self.dtype, name=name)(x)
            return x if bias is None else x + bias.astype(x.dtype)

        query, key, value = (conv(x, 1, name) for name in ("theta", "phi", "g"))
        total = (key * value).mean((1, 2), keepdims=True)
        norm = BatchNorm(
            self.axis_name, self.dtype, scale_init=nn.initializers.zeros, name="zero_bn"
        )
        return x + norm(conv(query * total, x.shape[-1], "out"), train=train)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (He et al. 2016, Fig. 5, right).

    Attributes:
      inner: channels of the first two convolutions.
      outer: channels of the result.
      stride: of the 3x3 convolution.
      project: make the shortcut a 1x1 convolution, not the input itself.
      instance_norm: normalise behind the first convolution by `HalfInstanceNorm`.
      float32_output, axis_name, dtype: see `ConvBN`.
    """

    inner: int
    outer: int
    stride: int = 1
    project: bool = False
    instance_norm: bool = False
    float32_output: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map [b, h, w, c] to [b, h / stride, w / stride, outer], >= 0."""

        def conv(x, channels, kernel, name, stride=1, relu=True):
            layer = ConvBN(
                channels,
                kernel,
                stride,
                use_bias=False,
                relu=relu,
                float32_output=self.float32_output,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=name,
            )
            return layer(x, train=train)

        if self.instance_norm:
            y, _ = Conv(self.inner, 1, 1, False, _HE, self.dtype, name="conv1")(x)
            norm = HalfInstanceNorm(self.axis_name, self.dtype, name="norm1")
            y = nn.relu(norm(y, train=train))
        else:
            y = conv(x, self.inner, 1, "conv1")
        y = conv(y, self.inner, 3, "conv2", self.stride)
        y = conv(y, self.outer, 1, "conv3", relu=False)
        if self.project:
            x = conv(x, self.outer, 1, "downsample", self.stride, relu=False)
        return nn.relu(x + y)


class Stage(nn.Module):
    """One of the four stages; the first begins with the 7x7 convolution and the pooling.

    The last stage's layers return at least float32; see `googlenet.Block`.

    Attributes:
      number: of the stage, 1 to 4; it ends at p1, p2, p3 or p4.
      width: multiplier of the channels.
      axis_name, dtype: see `ConvBN`.
      variant: see `Variant`.
    """

    number: int
    width: float = 1.0
    axis_name: str | None = None
    dtype: Any = jnp.float32
    variant: Variant = Variant()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Compute the next position's map, >= 0 but for a non-local block at its end.

        p1 is [b, h / 4, w / 4, 256], p2 [b, h / 8, w / 8, 512], p3 [b, h / 16, w / 16, 1024], p4
        [b, h / 16, w / 16, 2048], all channels times `width`.

        Args:
          x: the images, [b, h, w, 3], or the previous position's map.
          train: use batch statistics, not running statistics.
        """
        shared = {"axis_name": self.axis_name, "dtype": self.dtype}
        if self.number == 1:
            stem = ConvBN(
                scaled(STEM_WIDTH, self.width), 7, stride=2, use_bias=False, name="conv1", **shared
            )
            x = downsample(stem(x, train=train), self.variant.pool)
        inner, units = WIDTHS[self.number], UNITS[self.number]
        first = max(0, units - NON_LOCALS[self.number]) if self.variant.non_local else units
        for i in range(units):
            x = Bottleneck(
                scaled(inner, self.width),
                scaled(EXPANSION * inner, self.width),
                STRIDES[self.number] if i == 0 else 1,
                project=i == 0,
                instance_norm=self.variant.instance_norm and self.number < 4,
                float32_output=self.number == 4,
                name=f"unit{i}",
                **shared,
            )(x, train=train)
            if i >= first:
                x = NonLocal(name=f"non_local{i - first}", **shared)(x, train=train)
        return x
