"""A backbone of one layer a block, for tests of what surrounds the network: it compiles faster."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from batnet_jax.config import FIELDS
from batnet_jax.models import backbones
from batnet_jax.models.layers import ConvBN

STRIDES = {1: 4, 2: 2, 3: 2, 4: 1}


class ToyBlock(nn.Module):
    """A block of a single 3x3 convolution."""

    number: int
    width: float = 1.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map [b, h, w, c] to [b, h / stride, w / stride, 256 width]."""
        features, stride = round(256 * self.width), STRIDES[self.number]
        shared = {"axis_name": self.axis_name, "dtype": self.dtype}
        return ConvBN(features, 3, stride=stride, name="layer", **shared)(x, train=train)


def install() -> None:
    """Make `model.backbone="toy"` a choice in this process."""
    backbones.BACKBONES["toy"] = ToyBlock  # type: ignore
    field = FIELDS["model.backbone"]
    if "toy" not in field.choices:
        FIELDS["model.backbone"] = dataclasses.replace(field, choices=(*field.choices, "toy"))
