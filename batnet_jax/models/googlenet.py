"""GoogLeNet-BN, the backbone (section 4.4: "the first version of GoogLeNet ... with BN").

The network is a table of widths; the blocks Blk1..Blk4 of Fig. 5 read it. The paper gives no
widths: they are the published code's, which has 204 and 48 where Szegedy et al. have 208 and 32.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from batnet_jax.models.layers import ConvBN, ceil_padding, max_pool


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
BLOCK_INCEPTIONS = {2: ("3a", "3b"), 3: ("4a", "4b", "4c", "4d", "4e"), 4: ("5a", "5b")}


def scaled(channels: int, width: float) -> int:
    """The number of channels at the multiplier `width`; at least 1."""
    return max(1, round(channels * width))


class Inception(nn.Module):
    """One inception block (Szegedy et al. 2015, Fig. 2b) with true 5x5 convolutions.

    Attributes:
      widths: channels of its branches at width 1.
      width: multiplier of them.
      axis_name, dtype: see `ConvBN`.
    """

    widths: InceptionWidths
    width: float = 1.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [b, h, w, c] to [b, h, w, one + three + five + pool]; both are >= 0."""

        def conv(x, channels, kernel, name):
            layer = ConvBN(
                scaled(channels, self.width),
                kernel,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=name,
            )
            return layer(x, train=train)

        widths = self.widths
        one = conv(x, widths.one, 1, "one")
        three = conv(conv(x, widths.reduce3, 1, "reduce3"), widths.three, 3, "three")
        five = conv(conv(x, widths.reduce5, 1, "reduce5"), widths.five, 5, "five")
        pooled = max_pool(x, stride=1, padding=((1, 1), (1, 1)))
        pool = conv(pooled, widths.pool, 1, "pool")
        return jnp.concatenate([one, three, five, pool], axis=-1)


class Stem(nn.Module):
    """Blk1: [b, h, w, 3] to position p1, [b, h / 8, w / 8, 192].

    Attributes: as `Inception`'s.
    """

    width: float = 1.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps normalised images to the map at p1."""
        first, second, third = (scaled(channels, self.width) for channels in STEM_WIDTHS)
        shared = {"axis_name": self.axis_name, "dtype": self.dtype}
        x = ConvBN(first, 7, stride=2, name="conv1", **shared)(x, train=train)
        x = max_pool(x, stride=2, padding=((1, 1), (1, 1)))
        x = ConvBN(second, 1, name="conv2", **shared)(x, train=train)
        x = ConvBN(third, 3, name="conv3", **shared)(x, train=train)
        return max_pool(x, stride=2, padding=((1, 1), (1, 1)))


class Block(nn.Module):
    """Blk2, Blk3 or Blk4: its inceptions, then (but for Blk4) a max-pooling by 2.

    Attributes:
      number: 2, 3 or 4.
      width, axis_name, dtype: see `Inception`.
    """

    number: int
    width: float = 1.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps the position before the block to the position after it (p2, p3 or p4)."""
        for name in BLOCK_INCEPTIONS[self.number]:
            x = Inception(
                INCEPTION_WIDTHS[name],
                self.width,
                axis_name=self.axis_name,
                dtype=self.dtype,
                name=f"inception_{name}",
            )(x, train=train)
        if self.number == 2:
            return max_pool(x, stride=2, padding=tuple(ceil_padding(s) for s in x.shape[1:3]))
        if self.number == 3:
            return max_pool(x, stride=2, padding=((1, 1), (1, 1)))
        return x
