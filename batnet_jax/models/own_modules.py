"""The user's own backbones and heads: checks of their variables, and their initial values."""

from typing import Any

import jax
import jax.numpy as jnp

from batnet_jax.errors import UserError
from batnet_jax.models.backbones import BACKBONES
from batnet_jax.models.batnet import BATNet, feature_sizes
from batnet_jax.models.heads import HEADS


def own_parts(model: BATNet) -> tuple[str, ...]:
    """Return the user's own parts of a network, as prefixes of their variables' names."""
    parts = {
        ("blk", "part_streams"): (model.backbone, BACKBONES),
        ("appearance_head", "part_head"): (model.neck, HEADS),
    }
    return tuple(
        name
        for names, (own, choices) in parts.items()
        if not (isinstance(own, str) and own in choices)
        for name in names
    )


def check_own(model: BATNet, image_size: tuple[int, int]) -> None:
    """Check the variables and the features of a network with parts of the user's own.

    Args:
      model: the network.
      image_size: (height, width) of its images in pixels.

    Raises: UserError if variables cannot be trained or saved, or a head's scores do not follow from
      its feature by a layer `classifier`.
    """
    outputs, variables = jax.eval_shape(lambda: _initialise(model, image_size, 0))
    if kinds := sorted(variables.keys() - {"params", "batch_stats"}):
        raise UserError(
            f"the network has variables of the kind {kinds[0]!r}: only params and batch_stats are "
            "trained and saved"
        )
    for path, leaf in jax.tree.leaves_with_path(variables):
        if leaf.dtype != jnp.float32:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(f"the network's variable {name} is {leaf.dtype}: make it float32")
    heads = {f"{name}_head": {} for name in outputs["features"]}
    sizes = feature_sizes(heads | dict(variables.get("params", {})))
    for name, size in sizes.items():
        shapes = outputs["features"][name].shape, outputs["scores"][name].shape
        if shapes != ((2, size), (2, model.num_identities)):
            raise UserError(
                f"the {name} head returns features {shapes[0]} and scores {shapes[1]} of two "
                f"images: by its layer `classifier` they are {(2, size)} and "
                f"{(2, model.num_identities)}"
            )


def draw_own(model: BATNet, image_size: tuple[int, int], seed: int) -> dict[str, Any]:
    """Return the initial values of the user's own parts, by their modules' own initialisers.

    Args:
      model: the network.
      image_size: (height, width) of its images in pixels.
      seed: any int >= 0.
    Returns: `params` and `batch_stats` by the names of the parts, NumPy arrays.
    """
    own = own_parts(model)

    def draw() -> dict[str, Any]:
        _, variables = _initialise(model, image_size, seed)
        return {
            kind: {name: tree for name, tree in trees.items() if name.startswith(own)}
            for kind, trees in variables.items()
        }

    return jax.device_get(jax.jit(draw)())  # XLA leaves out what the values do not need


def _initialise(model: BATNet, image_size: tuple[int, int], seed: int) -> tuple[Any, Any]:
    """Return the outputs for two black images and the variables of a network."""
    images = jnp.zeros((2, *image_size, 3), jnp.float32)
    return model.init_with_output(jax.random.key(seed), images, train=False)
