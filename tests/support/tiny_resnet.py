"""A narrow ResNet-50, for tests of the backbone, of its weights and of the BNNeck."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from batnet_jax.config import default_config
from batnet_jax.models.build import make_model
from batnet_jax.models.init_variables import draw_variables

SIZE = (64, 32)
STRONG = {"backbone": "resnet50", "neck": "bnneck", "embedding_dim": 0, "dropout": 0.0}
BARE = {**STRONG, "attention": "none", "num_parts": 0}
WIDTH = 1 / 16
# In float64 only the order of sums differs, through 53 layers and their backward pass.
close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)


def make_config(**model):
    config = default_config()
    config.data.image_size = SIZE
    config.model.update({**BARE, "width": WIDTH, **model})
    return config


def draw(config, seed=0):
    return draw_variables(make_model(config, 5, axis_name=None), SIZE, seed)


def shapes_of(model, size=(256, 128)):
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    return jax.eval_shape(partial(model.init, train=True), keys, images)
