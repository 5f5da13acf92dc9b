"""The part feature extractor: one stream for each region of the attended map (section 4.2)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from batnet_jax.errors import UserError
from batnet_jax.models.backbones import BACKBONES
from batnet_jax.models.token_map import TokenMap, map_of, with_map
from batnet_jax.runtime.own_code import choose

PART_SAMPLINGS = ("paper", "published")


def part_sampling_matrix(num_parts: int, height: int, sampling: str) -> np.ndarray:
    """Return the matrices that resize each horizontal region to the full height.

    "paper": the region's rows only, resized bilinearly (half-pixel centres, edges repeated).
    "published": the published code's affine grid, scale 1 / T about the region's centre with
    corners aligned. It reads a little beyond the borders of a region.

    Args:
      num_parts: T, a divisor of `height`.
      height: rows of the map.
      sampling: one of `PART_SAMPLINGS`.
    Returns: [T, height, height] float64; rows sum to 1.
    Raises: UserError if T does not divide the height.
    """
    if height % num_parts:
        raise UserError(
            f"model.num_parts={num_parts} does not divide the {height} rows of the map at p2: "
            "choose a divisor, or another image height"
        )
    rows = height // num_parts
    start = np.arange(num_parts)[:, None] * rows
    out = np.arange(height)
    if sampling == "paper":
        source = start + np.clip((out + 0.5) / num_parts - 0.5, 0, rows - 1)
    else:
        grid = np.linspace(-1, 1, height) if height > 1 else np.zeros(1)
        centre = (2 * np.arange(num_parts)[:, None] + 1) / num_parts - 1
        source = (grid / num_parts + centre + 1) / 2 * (height - 1)
    # The weight of row r at the source position s is the hat function max(0, 1 - |s - r|).
    return np.maximum(0, 1 - np.abs(source[:, :, None] - np.arange(height)))


class PartStreams(nn.Module):
    """T streams, each with its own Blk3 and Blk4 (Remark 3: no shared weights).

    Attributes:
      num_parts: T (section 4.4: 4).
      sampling: one of `PART_SAMPLINGS`.
      backbone: see `BATNet`.
      width, axis_name, dtype: of the blocks.
    """

    num_parts: int = 4
    sampling: str = "paper"
    width: float = 1.0
    backbone: str | Callable[..., nn.Module] = "published"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array | TokenMap, *, train: bool) -> jax.Array:
        """Map p2's [b, h, w, c] to the streams' maps at p4, concatenated.

        All streams see the tokens beside the map, if there are any.

        Returns: [b, h / 2, w / 2, T * 1024 * width]; resnet50 has T * 2048 * width channels, osnet
          T * 512 * width.
        """
        whole = map_of(x)
        matrix = part_sampling_matrix(self.num_parts, whole.shape[1], self.sampling)
        batch, height, w, c = whole.shape
        rows = whole.reshape(batch, height, w * c)
        block = choose(BACKBONES, self.backbone)
        shared = {"width": self.width, "axis_name": self.axis_name, "dtype": self.dtype}
        streams = []
        for t in range(self.num_parts):
            # A product for each image needs no transpose, here or in the gradient.
            sample = jnp.broadcast_to(matrix[t].astype(whole.dtype), (batch, height, height))
            region = jnp.einsum("bij,bjk->bik", sample, rows).reshape(whole.shape)
            part = block(3, name=f"stream{t}_blk3", **shared)(with_map(x, region), train=train)
            streams.append(block(4, name=f"stream{t}_blk4", **shared)(part, train=train))
        return jnp.concatenate(streams, axis=-1)
