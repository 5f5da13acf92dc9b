"""Where results are promised to be exact, the programs for TPUs ask for exact float32 products.

By default a TPU rounds the operands of a float32 product to bfloat16.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from support.products import for_tpu, products
from support.tiny_run import small_config

from batnet_jax.evaluation.embed import embed_step
from batnet_jax.export import formats
from batnet_jax.models.build import make_model
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.models.second_order import pair_means
from batnet_jax.retrieval import search
from batnet_jax.retrieval.scores import block_scores
from batnet_jax.retrieval.streaming import count
from batnet_jax.step.losses import pairwise_distances, triplet_loss
from batnet_jax.step.packing import pack_state
from batnet_jax.step.train_step import make_recipe, state_shapes, train_step

EXACT = ("dot_general", "f32", True)


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


ROWS = array(64, 32)
CHUNK = search._Chunk(ROWS, array(64), array(64))
BEST = search.Best(array(64, 3), array(64, 3, dtype=jnp.int32))
FIRST, LABELS = array(dtype=jnp.int32), array(64, dtype=jnp.int32)
LOSS = partial(triplet_loss, margin=0.3, num_negatives=1)


TILE = ROWS.update(shape=(64, 64))
MAP = array(2, 4, 4, 8)
PROGRAMS = {
    "evaluator": (count.tile_scores, (ROWS, array(32, 64), array(64)), 1),
    "re-ranking": (block_scores, (ROWS, ROWS, array(64), array(64)), 1),
    "search": (search._merge_and_score, (BEST, TILE, FIRST, ROWS, CHUNK), 1),
    "pair means": (pair_means, (MAP,), 1),
    "their gradient": (jax.grad(lambda x: pair_means(x).sum()), (MAP,), 2),
    "distances": (pairwise_distances, (ROWS, ROWS), 1),
    "triplets": (jax.grad(LOSS), (ROWS, LABELS), 3),
}


@pytest.mark.parametrize(("function", "arguments", "number"), PROGRAMS.values(), ids=PROGRAMS)
def test_products_are_exact(function, arguments, number):
    found = for_tpu(jax.jit(function), *arguments)
    assert found == [EXACT] * number


def network():
    config = small_config(Path("unused"))
    model = make_model(config, 3, axis_name=None)
    return config, model, draw_variables(model, tuple(config.data.image_size), 0)


def test_an_exported_file_asks_for_exact_products():
    config, model, variables = network()
    size = tuple(config.data.image_size)
    exported = export.deserialize(bytearray(formats.to_stablehlo(model, variables, size)))
    found = products(exported.mlir_module())
    assert {kind for kind, _, _ in found} == {"convolution", "dot_general"}
    assert {(dtype, exact) for _, dtype, exact in found} == {("f32", True)}
    # The test can fail: embedding leaves the choice to JAX's setting.
    images = array(2, *size, 3, dtype=jnp.uint8)
    embed = jax.jit(partial(embed_step, model=model))
    assert not all(exact for *_, exact in for_tpu(embed, variables, images))


@pytest.mark.parametrize("precision", ["default", "highest"])
def test_the_setting_makes_training_exact(precision):
    """JAX_DEFAULT_MATMUL_PRECISION=highest, as docs/performance.md says, reaches gradients too."""
    config, _, _ = network()
    config.model.num_parts = 0
    recipe = make_recipe(config, num_identities=3, steps_per_epoch=1, axis_name=None)
    size = tuple(config.data.image_size)
    state = jax.eval_shape(partial(pack_state, kernels=False), state_shapes(recipe, size))
    batch = {"image": array(8, *size, 3, dtype=jnp.uint8), "label": array(8, dtype=jnp.int32)}
    step = jax.jit(partial(train_step, recipe=recipe))
    with jax.default_matmul_precision(precision):
        found = for_tpu(step, state, batch)
    exact = np.array([exact for *_, exact in found])
    assert len(exact) > 20
    assert {dtype for _, dtype, _ in found} == {"f32"}
    assert exact.all() == (precision == "highest")
    assert exact.any()  # the triplet loss, whatever the setting
