"""The maps around each Bi-attention, and the energy of maps."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from batnet_jax.models import BATNet
from batnet_jax.models.batnet import POSITIONS
from batnet_jax.models.preprocess import normalise

BLOCKS = {position: f"blk{number}" for number, position in enumerate(POSITIONS, 1)}
"""The module of `BATNet` whose output each position of an attention sees."""

LEAST_MASK = 0.5
"""The value of a mask that emphasises nothing: the least one, see `BiAttention.mask`."""


def attention_step(variables: dict[str, Any], images: jax.Array, *, model: BATNet) -> Any:
    """Compute the maps around each Bi-attention of images [b, h, w, 3] bytes.

    Returns: `outputs["attention"]` of `BATNet.__call__`.
    """
    outputs: Any = model.apply(variables, normalise(images), train=False)
    return outputs["attention"]


def mean_masks(
    model: BATNet, variables: dict[str, Any], batches: Iterable[tuple[np.ndarray, int]]
) -> dict[str, np.ndarray]:
    """Compute the masks of n images as means over the channels.

    Args:
      model: the network.
      variables: `params` and `batch_stats`.
      batches: images [b, h, w, 3] bytes of one shape, and their number without padding.
    Returns: by position, [n, h', w'] float32 in [1/2, 1).
    """

    @jax.jit
    def step(images: jax.Array) -> dict[str, jax.Array]:
        maps = attention_step(variables, images, model=model)
        return {name: own["mask"].astype(jnp.float32).mean(-1) for name, own in maps.items()}

    found: dict[str, list[np.ndarray]] = {}
    for images, count in batches:
        for name, masks in step(images).items():
            found.setdefault(name, []).append(np.asarray(masks)[:count])
    return {name: np.concatenate(masks) for name, masks in found.items()}


def energy_step(
    variables: dict[str, Any], images: jax.Array, *, model: BATNet, positions: Sequence[str]
) -> dict[str, dict[str, jax.Array]]:
    """Compute the energy of the maps at some positions: the sum of squares over the channels.

    Args:
      variables: `params` and `batch_stats`.
      images: [b, h, w, 3] bytes.
      model: the network.
      positions: any of `POSITIONS`, with an attention or without.
    Returns: for each position [b, h', w'] float32 by the map's name: `before`; and where the
      network has an attention, `mask`, `excess` (the mask less `LEAST_MASK`) and `after`.
    """
    names = [BLOCKS[position] for position in positions]

    def is_wanted(module: nn.Module, method: str) -> bool:
        return method == "__call__" and len(module.path) == 1 and module.path[0] in names

    outputs: Any
    outputs, captured = model.apply(
        variables,
        normalise(images),
        train=False,
        capture_intermediates=is_wanted,
        mutable=["intermediates"],
    )
    energies = {}
    for position, name in zip(positions, names, strict=True):
        maps: dict[str, Any] = {"before": captured["intermediates"][name]["__call__"][0]}
        if around := outputs["attention"].get(position):
            mask = around["mask"].astype(jnp.float32)
            maps |= {"mask": mask, "excess": mask - LEAST_MASK, "after": around["output"]}
        energies[position] = {
            key: jnp.square(x.astype(jnp.float32)).sum(-1) for key, x in maps.items()
        }
    return energies
