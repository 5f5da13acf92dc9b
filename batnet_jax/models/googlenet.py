"""GoogLeNet-BN, the backbone (section 4.4: "the first version of GoogLeNet ... with BN").

`Backbone` is a table of the network, and the blocks Blk1..Blk4 of Fig. 5 read it. The paper gives
no widths. "published" has the widths of the published code: 204 and 48 where Szegedy et al. have
208 and 32. "torchvision" is torchvision's `googlenet`, for its ImageNet weights.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from batnet_jax.models.layers import ConvBN
from batnet_jax.models.pooling import MaxPool, ceil_padding
from batnet_jax.models.preprocess import rescale


class InceptionWidths(NamedTuple):
    """Channels of the four branches: 1x1 | 3x3 reduce, 3x3 | 5x5 reduce, 5x5 | pool projection."""

    one: int
    reduce3: int
    three: int
    reduce5: int
    five: int
    pool: int


STEM_WIDTHS = (64, 64, 192)  # 7x7/2, 1x1, 3x3
INCEPTION_WIDTHS: Mapping[str, InceptionWidths] = {
    "3a": InceptionWidths(64, 96, 128, 16, 32, 32),
    "3b": InceptionWidths(128, 128, 192, 32, 96, 64),
    "4a": InceptionWidths(192, 96, 204, 16, 48, 64),
    "4b": InceptionWidths(160, 112, 224, 24, 64, 64),
    "4c": InceptionWidths(128, 128, 256, 24, 64, 64),
    "4d": InceptionWidths(112, 144, 288, 32, 64, 64),
    "4e": InceptionWidths(256, 160, 320, 32, 128, 128),
    "5a": InceptionWidths(256, 160, 320, 48, 128, 128),
    "5b": InceptionWidths(384, 192, 384, 48, 128, 128),
}
TORCHVISION_WIDTHS: Mapping[str, InceptionWidths] = {
    **INCEPTION_WIDTHS,
    "4a": InceptionWidths(192, 96, 208, 16, 48, 64),
    "5a": InceptionWidths(256, 160, 320, 32, 128, 128),
}


class Pool(NamedTuple):
    """A max-pooling at stride 2.

    Attributes:
      window: its side.
      padding: of zeros around the map; None: at the ends, just enough to cover every row.
    """

    window: int
    padding: int | None


class Backbone(NamedTuple):
    """A variant of GoogLeNet-BN.

    Attributes:
      widths: of the inceptions, by name.
      five: side of the third branch's kernel; torchvision's "5x5" is 3x3.
      bias: convolutions have a bias.
      epsilon: of BN.
      pools: after the stem's 7x7, after the stem, after Blk2 and after Blk3.
      rescale: bring normalised images to [-1, 1] first (torchvision's `transform_input`, which its
        pretrained weights need).
    """

    widths: Mapping[str, InceptionWidths]
    five: int
    bias: bool
    epsilon: float
    pools: tuple[Pool, Pool, Pool, Pool]
    rescale: bool


_TORCHVISION = Backbone(
    widths=TORCHVISION_WIDTHS,
    five=3,
    bias=False,
    epsilon=1e-3,
    pools=(Pool(3, None), Pool(3, None), Pool(3, None), Pool(2, None)),
    rescale=True,
)
BACKBONES: Mapping[str, Backbone] = {
    "published": Backbone(
        widths=INCEPTION_WIDTHS,
        five=5,
        bias=True,
        epsilon=1e-5,
        pools=(Pool(3, 1), Pool(3, 1), Pool(3, None), Pool(3, 1)),
        rescale=False,
    ),
    "torchvision": _TORCHVISION,
    "torchvision_raw": _TORCHVISION._replace(rescale=False),  # made with transform_input=False
}
BLOCK_INCEPTIONS = {2: ("3a", "3b"), 3: ("4a", "4b", "4c", "4d", "4e"), 4: ("5a", "5b")}


def scaled(channels: int, width: float) -> int:
    """Return the number of channels at the multiplier `width`, at least 1."""
    return max(1, round(channels * width))


def downsample(x: jax.Array, pool: Pool) -> jax.Array:
    """Max-pool [b, h, w, c], >= 0, at stride 2."""
    window, padding = pool
    if padding is None:
        pads = [ceil_padding(size, window) for size in x.shape[1:3]]
    else:
        pads = [(padding, padding)] * 2
    return MaxPool(2, pads, window)(x)


class Inception(nn.Module):
    """One inception block (Szegedy et al. 2015, Fig. 2b).

    Attributes:
      widths: channels of the branches at width 1.
      width: multiplier of the channels.
      backbone: a key of `BACKBONES`; its widths are not used.
      float32_output, axis_name, dtype: see `ConvBN`.
    """

    widths: InceptionWidths
    width: float = 1.0
    backbone: str = "published"
    float32_output: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map [b, h, w, c] to [b, h, w, one + three + five + pool]; both are >= 0."""
        variant = BACKBONES[self.backbone]

        def conv(x, channels, kernel, name):
            layer = ConvBN(
                scaled(channels, self.width),
                kernel,
                use_bias=variant.bias,
                epsilon=variant.epsilon,
                float32_output=self.float32_output,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=name,
            )
            return layer(x, train=train)

        widths = self.widths
        one = conv(x, widths.one, 1, "one")
        three = conv(conv(x, widths.reduce3, 1, "reduce3"), widths.three, 3, "three")
        five = conv(conv(x, widths.reduce5, 1, "reduce5"), widths.five, variant.five, "five")
        pooled = MaxPool(1, ((1, 1), (1, 1)))(x)
        pool = conv(pooled, widths.pool, 1, "pool")
        return jnp.concatenate([one, three, five, pool], axis=-1)


class Stem(nn.Module):
    """Blk1, from images to the map at p1.

    Attributes: see `Inception`.
    """

    width: float = 1.0
    backbone: str = "published"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map normalised images [b, h, w, 3] to [b, h / 8, w / 8, 192], the map at p1."""
        first, second, third = (scaled(channels, self.width) for channels in STEM_WIDTHS)
        variant = BACKBONES[self.backbone]
        shared = {
            "use_bias": variant.bias,
            "epsilon": variant.epsilon,
            "axis_name": self.axis_name,
            "dtype": self.dtype,
        }
        if variant.rescale:
            x = rescale(x)
        x = ConvBN(first, 7, stride=2, name="conv1", **shared)(x, train=train)
        x = downsample(x, variant.pools[0])
        x = ConvBN(second, 1, name="conv2", **shared)(x, train=train)
        x = ConvBN(third, 3, name="conv3", **shared)(x, train=train)
        return downsample(x, variant.pools[1])


class Block(nn.Module):
    """Blk2, Blk3 or Blk4: inceptions, then (except in Blk4) a max-pooling by 2.

    Blk4's layers return at least float32: a precaution, see docs/performance.md, "bfloat16".

    Attributes:
      number: 2, 3 or 4.
      width, backbone, axis_name, dtype: see `Inception`.
    """

    number: int
    width: float = 1.0
    backbone: str = "published"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map the map at the previous position to the map at p2, p3 or p4."""
        variant = BACKBONES[self.backbone]
        for name in BLOCK_INCEPTIONS[self.number]:
            x = Inception(
                variant.widths[name],
                self.width,
                self.backbone,
                float32_output=self.number == 4,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=f"inception_{name}",
            )(x, train=train)
        return x if self.number == 4 else downsample(x, variant.pools[self.number])
