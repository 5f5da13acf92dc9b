"""The training step around stubs in place of the network, which show its inputs and outputs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.fast_jit import jit
from support.tiny_run import small_config
from support.variants import few

from batnet_jax.config import FIELDS, default_config
from batnet_jax.evaluation.embed import embed_step
from batnet_jax.runtime.devices import AXIS
from batnet_jax.step import augment
from batnet_jax.step.train_step import (
    TrainState,
    init_state,
    make_recipe,
    state_shapes,
    train_step,
)
from batnet_jax.validation import validate

KEEP_GRADIENT = optax.GradientTransformation(
    init=lambda params: params, update=lambda gradients, _, __: (gradients, gradients)
)
STEPS_PER_EPOCH = 3


class Mirror:
    """A stub that returns its images as statistics."""

    def apply(self, variables, images, *, train, rngs, mutable):
        assert train
        assert set(rngs) == {"dropout"}
        means = images.mean((1, 2)) * variables["params"]
        outputs = {"features": {"appearance": means}, "scores": {"appearance": means}}
        return outputs, {"batch_stats": images}


@pytest.fixture(scope="module")
def step():
    """Return a function from step and seed to the augmented images and the metrics."""
    config = default_config()
    config.augment.erasing_start_epoch = 2
    config.augment.erasing_probability = 1.0
    config.augment.enlarge_probability = 0.0
    config.decay_epochs = (2,)
    recipe = make_recipe(config, num_identities=3, steps_per_epoch=STEPS_PER_EPOCH, axis_name=None)
    recipe = recipe._replace(model=Mirror(), tx=KEEP_GRADIENT)
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 16, 3)).astype(np.uint8)
    batch = {"image": images, "label": np.repeat(np.arange(3), 3)}
    compiled = jax.jit(partial(train_step, recipe=recipe))

    def take(number, seed=0):
        params = jnp.ones(3)
        state = TrainState(
            jnp.int32(number), jnp.int32(seed), params, batch_stats=None, opt_state=params
        )
        state, metrics = compiled(state, batch)
        assert (state.step, state.seed) == (number + 1, seed)
        return np.asarray(state.batch_stats), jax.device_get(metrics)

    return take


STRONG = {"backbone": "resnet50", "neck": "bnneck", "embedding_dim": 0, "num_parts": 0}


ONE_PART = {"num_parts": 1}
"""One part has the types of four."""
TYPES = [("bfloat16", ONE_PART), ("float64", ONE_PART), ("bfloat16", STRONG)]
TYPES += [(dtype, {}) for dtype in ("float32", "bfloat16", "float64")]
TYPES += [(dtype, STRONG) for dtype in ("float32", "float64")]


@pytest.mark.parametrize(("dtype", "model"), few(TYPES, keep=[0, 1, 2]), ids=str)
@pytest.mark.usefixtures("short_backbone")
def test_a_step_keeps_the_types(dtype, model):
    """Otherwise the second step would be compiled again, and a restored state would differ."""
    config = default_config()
    config.model.update({"width": 1 / 16, "dtype": dtype} | model)
    recipe = make_recipe(config, num_identities=4, steps_per_epoch=1, axis_name=None)
    batch = {"image": np.zeros((8, 64, 32, 3), np.uint8), "label": np.repeat(np.arange(4), 2)}
    with jax.enable_x64(dtype == "float64"):
        state = init_state(recipe, (64, 32))
        after, _ = jax.eval_shape(partial(train_step, recipe=recipe), state, batch)
    before, after = (jax.tree.map(lambda x: x.dtype, s) for s in (state, after))
    assert after == before


def test_erasing_starts_with_its_epoch(step):
    before, _ = step(2 * STEPS_PER_EPOCH - 1)
    assert not (before == 0).any()
    first, _ = step(2 * STEPS_PER_EPOCH)
    assert (first == 0).any((1, 2, 3)).all()


def test_the_learning_rate_is_of_the_step_taken(step):
    assert step(2 * STEPS_PER_EPOCH - 1)[1]["lr"] == pytest.approx(5e-4)
    assert step(2 * STEPS_PER_EPOCH)[1]["lr"] == pytest.approx(5e-5)


def test_randomness_is_a_function_of_seed_and_step(step):
    np.testing.assert_array_equal(step(7)[0], step(7)[0])
    assert (step(7)[0] != step(8)[0]).any()
    assert (step(7)[0] != step(7, seed=1)[0]).any()


def test_loss_is_the_sum_of_its_parts(step):
    _, metrics = step(0)
    assert set(metrics) == {"loss", "loss_ce", "loss_triplet", "lr"}
    assert metrics["loss"] == pytest.approx(metrics["loss_ce"] + metrics["loss_triplet"], rel=1e-6)


class Fixed:
    """A stub with fixed features; f_p is long, and one f_a is 0."""

    f_a = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    f_p = np.array([[0.0, 50.0], [60.0, 80.0]], np.float32)

    def apply(self, variables, images, *, train):
        assert not train
        np.testing.assert_array_equal(images, augment.normalise(variables["bytes"]))
        return {"features": {"appearance": self.f_a, "part": self.f_p}}


def test_embedding_is_two_unit_halves():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 2, 3)).astype(np.uint8)
    features = embed_step({"bytes": images}, images, model=Fixed())
    assert features.dtype == jnp.float32
    np.testing.assert_allclose(features, [[0.6, 0.8, 0, 1], [0, 0, 0.6, 0.8]], rtol=1e-6)


OPTIONS = {
    "clip_norm": 0.25,
    "ema_decay": 0.9,
    "model.classifier": "arcface",
    "loss.class_margin": 0.5,
    "augment.colour_jitter": 0.3,
    "augment.grey_probability": 0.5,
}
"""What the paper's configs leave out."""


def gradients(folder, devices=None, **fields):
    """Return the gradient that reaches the optimizer, of 8 images on one device or on several."""
    config = small_config(folder)
    config.model.dropout = 0.0
    config.update_from_flattened_dict(OPTIONS | fields)
    validate(config)
    axis = AXIS if devices else None
    recipe = make_recipe(config, num_identities=4, steps_per_epoch=1, axis_name=axis)
    state = init_state(recipe, (64, 32))
    state = state.replace(opt_state=state.params)
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, (8, 64, 32, 3)).astype(np.uint8),
        "label": np.repeat(np.arange(4), 2),
    }
    step = partial(train_step, recipe=recipe._replace(tx=KEEP_GRADIENT))
    if devices:
        batch = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
        step = jax.vmap(step, in_axes=(None, 0), out_axes=None, axis_name=axis)
    state, metrics = jit(step)(state, batch)
    return jax.device_get((state.opt_state, metrics))


def norm(tree):
    return np.sqrt(sum(np.square(np.float64(leaf)).sum() for leaf in jax.tree.leaves(tree)))


def test_the_options_see_the_global_batch(tmp_path):
    """One norm clips the gradient of all devices, and an image has its colours on any of them."""
    (one, figures), (four, others) = (gradients(tmp_path, n) for n in (None, 4))
    assert norm(one) == pytest.approx(0.25, rel=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6), one, four)
    for name, value in figures.items():
        assert float(others[name]) == pytest.approx(float(value), rel=1e-4), name
    whole, _ = gradients(tmp_path, clip_norm=0.0)
    length = norm(whole)
    assert length > 1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b * 0.25 / length, rtol=1e-4, atol=1e-7),
        one, whole,
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "ema_decay"])
def test_each_option_changes_the_gradient(name, tmp_path):
    base = {field: FIELDS[field].default for field in OPTIONS}
    if name == "loss.class_margin":
        base["model.classifier"] = "am_softmax"
    before, after = (
        gradients(tmp_path, **base | given)[0] for given in ({}, {name: OPTIONS[name]})
    )
    kernels = [x["blk1"]["layer"]["conv"]["kernel"] for x in (before, after)]
    assert not np.allclose(*kernels, rtol=1e-3, atol=0)


def test_clipping_leaves_the_optimizers_state_as_it_is(tmp_path):
    """So a checkpoint can be evaluated by a config that does not know of it."""
    shapes = []
    for norm in (0.0, 1.0):
        config = small_config(tmp_path)
        config.clip_norm = norm
        recipe = make_recipe(config, num_identities=4, steps_per_epoch=1)
        shapes.append(jax.tree.map(lambda x: (x.shape, x.dtype), state_shapes(recipe, (64, 32))))
    assert shapes[0] == shapes[1]
