"""The moving average of the weights: its formula, the step, checkpoints and what reads them."""

from functools import partial

import jax
import numpy as np
import pytest
from support.fast_jit import same_rounding_jit
from support.tiny_run import IDENTITIES, PIXELS, small_config

import batnet_jax
from batnet_jax.inference.fingerprint import fingerprint
from batnet_jax.inference.restore import restore_network, restore_train_state
from batnet_jax.step.averaging import Average, move_average
from batnet_jax.step.memory import estimate_memory
from batnet_jax.step.packing import pack_state, unpack_state
from batnet_jax.step.train_step import init_state, make_recipe, train_step
from batnet_jax.weights.sources import open_source
from batnet_jax.workdir import checkpoints

DECAY = 0.9


@pytest.mark.usefixtures("float64")
def test_the_average_is_the_formula():
    """By a loop, from the first steps, which count more, to those that count 1 - decay."""
    values = np.random.default_rng(0).standard_normal((120, 3))
    average, plain = Average({"w": np.zeros(3)}, {}), np.zeros(3)
    for step, value in enumerate(values):
        average = move_average(average, {"w": value}, {}, decay=DECAY, step=np.int32(step))
        kept = min(DECAY, (1 + step) / (10 + step))
        plain = kept * plain + (1 - kept) * value
    np.testing.assert_allclose(average.params["w"], plain, rtol=1e-12)
    assert kept == DECAY


def config_of(folder, decay=DECAY):
    config = small_config(folder)
    config.ema_decay = decay
    config.model.attention = "none"  # compiles faster
    return config


def recipe_of(config):
    return make_recipe(config, num_identities=3, steps_per_epoch=1, axis_name=None)


def copy(tree):
    return jax.tree.map(np.array, jax.device_get(tree))


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """The states before and after each of three steps, with the average and without, packed too."""
    folder = tmp_path_factory.mktemp("data")
    images = np.random.default_rng(0).integers(0, 256, (12, 64, 32, 3), np.uint8)
    batch = {"image": images, "label": np.repeat(np.arange(3), 4)}
    found = {}
    for name, decay, pack in (
        ("none", 0.0, lambda s: s), ("average", DECAY, lambda s: s), ("packed", DECAY, pack_state)
    ):  # fmt: skip
        recipe = recipe_of(config_of(folder, decay))
        step = same_rounding_jit(partial(train_step, recipe=recipe))
        state = pack(init_state(recipe, (64, 32)))
        found[name] = [copy(unpack_state(state))]
        for _ in range(3):
            state, _ = step(state, batch)
            found[name].append(copy(unpack_state(state)))
    return found


def test_a_step_moves_the_average_and_changes_nothing_else(states):
    assert states["none"][0].average is None
    average = states["average"][0].average
    jax.tree.map(np.testing.assert_array_equal, average.params, states["none"][0].params)
    for number, (plain, state) in enumerate(zip(states["none"], states["average"], strict=True)):
        jax.tree.map(np.testing.assert_array_equal, state.params, plain.params)
        if number:
            share = np.float32(max(0.1, 9 / (10 + number - 1)))
            for kind in Average._fields:
                average = average._replace(
                    **{
                        kind: jax.tree.map(
                            lambda old, new, share=share: old + share * (new - old),
                            getattr(average, kind),
                            getattr(plain, kind),
                        )
                    }
                )
        # XLA may fuse a product and a sum, which rounds once less.
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), state.average, average
        )
    for one, other in zip(states["average"], states["packed"], strict=True):
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one.average, other.average
        )


@pytest.fixture(scope="module")
def run(states, tmp_path_factory):
    """A workdir of the state after three steps."""
    workdir = tmp_path_factory.mktemp("run")
    with checkpoints.open_manager(workdir) as manager:
        state = states["average"][-1]
        checkpoints.save(manager, 3, state, checkpoints.metadata(config_of(workdir), IDENTITIES))
    return workdir


def test_the_average_embeds_and_is_evaluated(states, run):
    """Also if the config of the evaluation does not know of it."""
    state = states["average"][-1]
    wanted = {"params": state.average.params, "batch_stats": state.average.batch_stats}
    model = batnet_jax.load(run)
    assert model.fingerprint == fingerprint(model.config, wanted)
    assert np.isfinite(model.embed([PIXELS])).all()
    for decay in (DECAY, 0.0):
        _, variables = restore_network(config_of(run, decay), run, 3)
        jax.tree.map(np.testing.assert_array_equal, variables, wanted)
    tensors = open_source(config_of(run), run).tensors
    name = "params/blk1/layer/conv/kernel"
    kernel = wanted["params"]["blk1"]["layer"]["conv"]["kernel"]
    np.testing.assert_array_equal(tensors[name][1], kernel)


def test_a_run_goes_on_with_the_weights_and_the_average(states, run):
    _, state = restore_train_state(config_of(run), run, 3)
    for name in ("params", "average"):
        jax.tree.map(
            np.testing.assert_array_equal,
            getattr(state, name),
            getattr(states["average"][-1], name),
        )


def test_other_weights_are_the_start_of_the_average(states):
    first, last = states["average"][0], states["average"][-1]
    state = first.start_with({"params": last.params, "batch_stats": last.batch_stats})
    jax.tree.map(np.testing.assert_array_equal, state.average.params, last.params)
    state.average.params["blk1"]["layer"]["conv"]["kernel"][:] = 0
    assert state.params["blk1"]["layer"]["conv"]["kernel"].any()


def test_the_memory_of_the_average_is_counted(tmp_path):
    memory = [
        estimate_memory(recipe_of(config_of(tmp_path, decay)), (64, 32), 4).state
        for decay in (0.0, DECAY)
    ]
    state = init_state(recipe_of(config_of(tmp_path)), (64, 32))
    assert memory[1] - memory[0] == sum(x.nbytes for x in jax.tree.leaves(state.average))
