"""ResNet-50 as person retrieval uses it, the backbone of the strong baselines.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, in the form of torchvision's
ImageNet weights: a bottleneck has its stride in its 3x3 convolution, not in its first 1x1. The
last stage keeps the size of its map (Luo et al., "Bag of Tricks and a Strong Baseline for Deep
Person Re-identification", CVPR Workshops 2019, "Last Stride"); no weight depends on this.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from batnet_jax.models.googlenet import Pool, downsample, scaled
from batnet_jax.models.layers import ConvBN

STEM_WIDTH = 64
WIDTHS: Mapping[int, int] = {1: 64, 2: 128, 3: 256, 4: 512}  # of a stage's 3x3 convolutions
UNITS = {1: 3, 2: 4, 3: 6, 4: 3}  # bottlenecks in each stage; tests shorten it
STRIDES: Mapping[int, int] = {1: 1, 2: 2, 3: 2, 4: 1}  # stage 4: "Last Stride"; He et al. have 2
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (He et al. 2016, Fig. 5, right).

    Attributes:
      inner: channels of the first two convolutions.
      outer: channels of the result.
      stride: of the 3x3 convolution.
      project: make the shortcut a 1x1 convolution, not the input itself.
      float32_output, axis_name, dtype: see `ConvBN`.
    """

    inner: int
    outer: int
    stride: int = 1
    project: bool = False
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
    """

    number: int
    width: float = 1.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Compute the next position's map, >= 0.

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
            x = downsample(stem(x, train=train), Pool(3, 1))
        inner = WIDTHS[self.number]
        for i in range(UNITS[self.number]):
            x = Bottleneck(
                scaled(inner, self.width),
                scaled(EXPANSION * inner, self.width),
                STRIDES[self.number] if i == 0 else 1,
                project=i == 0,
                float32_output=self.number == 4,
                name=f"unit{i}",
                **shared,
            )(x, train=train)
        return x
