"""Narrow OSNets and files of their weights, for tests of the backbone and of its weights."""

import jax
import numpy as np

from batnet_jax.config import default_config
from batnet_jax.models.build import make_model
from batnet_jax.models.init_variables import draw_variables

SIZE = (64, 32)
HEAD = {"neck": "fc", "embedding_dim": 512, "dropout": 0.0, "attention": "none", "num_parts": 0}
"""The authors' network, without Bi-attention and part streams."""
# The kind in PyTorch, our backbone, and the width of both together.
KINDS = {
    "plain": ("osnet_x0_25", 1.0),
    "ibn": ("osnet_ibn_x1_0", 0.25),
    "ain": ("osnet_ain_x0_25", 1.0),
}


def make_config(backbone="osnet_x0_25", **model):
    config = default_config()
    config.data.image_size = SIZE
    config.model.update({**HEAD, "backbone": backbone, **model})
    return config


def draw(config, seed=0):
    """Return random variables; no bias is 0 and no scale is 1."""
    rng = np.random.default_rng(seed)

    def noise(leaf):
        return (leaf + 0.2 * rng.standard_normal(leaf.shape)).astype(np.float32)

    model = make_model(config, 5, axis_name=None)
    return jax.tree.map(noise, draw_variables(model, SIZE, seed))
