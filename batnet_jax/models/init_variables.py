"""Initial values, drawn on the host.

The law is that of the modules' own initialisers, which stay for those who use a module alone. But
one random kernel a shape costs XLA longer to compile than a short training takes, so `BATNet`'s
values come from NumPy; a test holds the two laws together.
"""

import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from batnet_jax.errors import UserError
from batnet_jax.models.batnet import LIMITS, BATNet

# Variance times fan-in: He et al. 2015 where a ReLU follows, LeCun's for the dense layers.
KERNEL_GAIN = {4: 2.0, 2: 1.0}
MOST_PARAMETERS = 300_000_000
"""Of a network, 8 times the paper's; with Adam's moments they take 12 bytes each."""
CONSTANTS = {"bias": 0.0, "scale": 1.0, "mean": 0.0, "var": 1.0}


def draw_variables(model: BATNet, image_size: tuple[int, int], seed: int) -> dict[str, Any]:
    """Variables of a fresh network: `params` and `batch_stats`, NumPy float32.

    Each value depends on the seed and its own path only, so a layer keeps its values when another
    is added.

    Args:
      model: the network.
      image_size: (height, width) of its images in pixels.
      seed: any int >= 0.

    Raises: UserError if there are more than `MOST_PARAMETERS`, or a field is beyond `LIMITS`; no
      memory is taken then.
    """
    for name, most in LIMITS.items():
        value = getattr(model, name)
        if not 0 <= value <= most:
            raise UserError(f"config.model.{name}={value} must be 0 to {most}")
    images = jax.ShapeDtypeStruct((2, *image_size, 3), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    shapes = jax.eval_shape(lambda x: model.init(keys, x, train=True), images)

    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    if parameters > MOST_PARAMETERS:
        raise UserError(
            f"the network of this config has {parameters:,} parameters, more than "
            f"{MOST_PARAMETERS:,}: lower model.width, model.num_parts, model.embedding_dim or the "
            "number of identities, or raise model.reduction"
        )

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        *_, name = names = [key.key for key in path]
        if name in CONSTANTS:
            return np.full(leaf.shape, CONSTANTS[name], np.float32)
        gain = KERNEL_GAIN[len(leaf.shape)] / np.prod(leaf.shape[:-1])
        rng = np.random.default_rng([seed, zlib.crc32("/".join(names).encode())])
        return rng.standard_normal(leaf.shape, np.float32) * np.float32(np.sqrt(gain))

    return jax.tree_util.tree_map_with_path(draw, shapes)
