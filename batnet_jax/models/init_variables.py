"""The initial values of a network, drawn on the host.

The modules' own initialisers, which apply if a module is used without `BATNet`, have the same
distributions; a test compares them. `BATNet`'s values are drawn in NumPy because XLA would compile
a random kernel for each shape, which takes longer than a short training.
"""

import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from batnet_jax.errors import UserError
from batnet_jax.models.batnet import MAX_ATTRIBUTES, BATNet
from batnet_jax.models.own_modules import check_own, draw_own, own_parts

# A kernel's variance times its fan-in, by its number of dimensions: He et al. 2015 for
# convolutions, which a ReLU follows; LeCun's for dense layers.
KERNEL_GAIN = {4: 2.0, 2: 1.0}
CONSTANTS = {"bias": 0.0, "scale": 1.0, "mean": 0.0, "var": 1.0, "power": 3.0}
CONSTANTS |= {"scale1_gamma": 1e-5, "scale2_gamma": 1e-5}  # LayerScale
SMALL = {"token": 0.02, "registers": 0.02, "positions": 0.02}
"""The standard deviations of a transformer's tokens and positions."""
ZERO_SCALE = "zero_bn"
"""The layers with a scale that begins at 0."""
MAX_PARAMETERS = 300_000_000
"""The most in a network: 8 times the paper's. With Adam's moments a parameter takes 12 bytes."""


def variable_shapes(model: BATNet, image_size: tuple[int, int]) -> dict[str, Any]:
    """Return the shapes of a network's float32 variables, the trees `params` and `batch_stats`.

    Args:
      model: the network.
      image_size: (height, width) of its images in pixels.

    Raises: UserError if the network has more than `MAX_PARAMETERS`, or an attribute exceeds
      `MAX_ATTRIBUTES`.
    """
    for name, most in MAX_ATTRIBUTES.items():
        value = getattr(model, name)
        if not 0 <= value <= most:
            raise UserError(f"model.{name}={value} must be 0 to {most}")
    images = jax.ShapeDtypeStruct((2, *image_size, 3), jnp.float32)
    # Inference has the same variables as training, and is traced in two thirds of the time.
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    if parameters > MAX_PARAMETERS:
        raise UserError(
            f"the network has {parameters:,} parameters, more than {MAX_PARAMETERS:,}: lower "
            "model.width, model.num_parts, model.embedding_dim or the number of identities, or "
            "raise model.reduction"
        )
    if own_parts(model):
        check_own(model, image_size)
    shapes = {"batch_stats": {}, **shapes}
    # Without this they would be float64 in JAX's x64 mode.
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), shapes)


def draw_variables(model: BATNet, image_size: tuple[int, int], seed: int) -> dict[str, Any]:
    """Return the variables of a fresh network: `params` and `batch_stats`, NumPy float32.

    Each value depends only on the seed and its own path: a layer keeps its values when another
    layer is added. Modules of the user's own have the values of their own initialisers.

    Args:
      model: the network.
      image_size: (height, width) of its images in pixels.
      seed: any int >= 0.

    Raises: UserError as `variable_shapes` does. No memory is taken then.
    """
    shapes = variable_shapes(model, image_size)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        *_, name = names = [key.key for key in path]
        if names[-2:] == [ZERO_SCALE, "scale"]:
            return np.zeros(leaf.shape, np.float32)
        if name in CONSTANTS:
            return np.full(leaf.shape, CONSTANTS[name], np.float32)
        if name in SMALL:
            gain = SMALL[name] ** 2
        else:
            gain = KERNEL_GAIN[len(leaf.shape)] / np.prod(leaf.shape[:-1])
        rng = np.random.default_rng([seed, zlib.crc32("/".join(names).encode())])
        return rng.standard_normal(leaf.shape, np.float32) * np.float32(np.sqrt(gain))

    own = own_parts(model)
    ours = {
        kind: {name: tree for name, tree in trees.items() if not name.startswith(own)}
        for kind, trees in shapes.items()
    }
    drawn = jax.tree_util.tree_map_with_path(draw, ours)
    theirs = draw_own(model, image_size, seed) if own else {}
    return {kind: drawn[kind] | theirs.get(kind, {}) for kind in drawn}
