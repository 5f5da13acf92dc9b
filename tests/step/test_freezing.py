"""Frozen parts, and a rate of its own for the backbone, over several steps of a small network."""

from functools import partial

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from support.fast_jit import same_rounding_jit

from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.models import FREEZABLE, parse_frozen
from batnet_jax.step.packing import pack_state, unpack_state
from batnet_jax.step.train_step import init_state, make_recipe, train_step
from batnet_jax.validation import validate

STEPS = 3
SLOW = pytest.mark.slow  # each compiles a step


def take_steps(freeze="", rate=1.0, *, kernels=None, **fields):
    """Return the states before and after some steps; the statistics and weights are uncommon."""
    config = default_config()
    config.model.update({"width": 1 / 16, "num_parts": 1, "embedding_dim": 8, "backbone": "toy"})
    config.data.image_size = (64, 32)
    config.augment.erasing_probability = 0.0
    config.update_from_flattened_dict(fields)
    config.train.freeze, config.train.backbone_rate = freeze, rate
    recipe = make_recipe(config, num_identities=4, steps_per_epoch=1, axis_name=None)
    state = init_state(recipe, (64, 32))
    rng = np.random.default_rng(0)
    state = state.replace(
        params=jax.tree.map(lambda x: noisy(rng, x), state.params),
        batch_stats=jax.tree.map(lambda x: noisy(rng, x), state.batch_stats),
    )
    before = state
    images = rng.integers(0, 256, (8, 64, 32, 3)).astype(np.uint8)
    batch = {"image": images, "label": np.repeat(np.arange(4), 2)}
    step = same_rounding_jit(partial(train_step, recipe=recipe))
    if kernels is not None:
        state = pack_state(state, kernels=kernels)
    for _ in range(STEPS):
        state, _ = step(state, batch)
    return before, jax.device_get(unpack_state(state))


def noisy(rng, leaf):
    """Change a leaf a little; some values are -0, which any addition would turn to 0."""
    value = leaf + np.abs(0.05 * rng.standard_normal(leaf.shape)).astype(np.float32)
    value.flat[0] = -0.0
    return value


def changed(before, after, kind):
    """Return, for each part, the shares of arrays whose bits have changed."""
    old, new = (flatten_dict(getattr(state, kind)) for state in (before, after))
    shares = {}
    for path, value in old.items():
        shares.setdefault(path[0], []).append(value.tobytes() != np.asarray(new[path]).tobytes())
    return {name: np.mean(found) for name, found in shares.items()}


@pytest.mark.parametrize("kernels", [*(pytest.param(k, marks=SLOW) for k in (None, False)), True])
def test_frozen_parts_keep_every_bit(kernels):
    before, after = take_steps("blk1,blk2", kernels=kernels)
    for kind in ("params", "batch_stats"):
        shares = changed(before, after, kind)
        assert {name for name, share in shares.items() if share == 0} == {"blk1", "blk2"}
        others = [share for name, share in shares.items() if name not in ("blk1", "blk2")]
        assert min(others) > 0.5
    for moments in (after.opt_state[1].mu, after.opt_state[1].nu):
        for name, part in moments.items():
            zero = not any(np.any(leaf) for leaf in jax.tree.leaves(part))
            assert zero == (name in ("blk1", "blk2")), name


@pytest.mark.parametrize(
    "freeze",
    [
        *(pytest.param(name, marks=SLOW) for name in ("bi_attention", "part_streams", "blk3")),
        "blk4,bi_attention",
    ],
)
def test_any_part_can_be_frozen(freeze):
    parts = int("part_streams" in freeze)  # none compiles faster
    fields = {"model.position": "p1,p2", "batch.accumulate": 2, "model.num_parts": parts}
    before, after = take_steps(freeze, **fields)
    names = freeze.split(",")
    for kind in ("params", "batch_stats"):
        for name, share in changed(before, after, kind).items():
            still = any(name.startswith(one) for one in names)
            assert (share == 0) == still, (kind, name)


def test_frozen_parts_normalise_by_their_running_statistics():
    """The loss of a step does not depend on the other images that a frozen part sees."""
    config = default_config()
    config.model.update({"width": 1 / 16, "num_parts": 0, "embedding_dim": 8, "attention": "none"})
    config.model.backbone = "toy"
    config.train.freeze = "blk1,blk2"
    recipe = make_recipe(config, num_identities=4, steps_per_epoch=1, axis_name=None)
    state = init_state(recipe, (64, 32))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    images = np.random.default_rng(0).normal(size=(4, 64, 32, 3)).astype(np.float32)

    def block2(rows, train):
        _, found = recipe.model.apply(
            variables, rows, train=train, mutable=["intermediates", "batch_stats"],
            rngs={"dropout": jax.random.key(0)},
            capture_intermediates=lambda module, _: module.name == "blk2",
        )  # fmt: skip
        return found["intermediates"]["blk2"]["__call__"][0]

    np.testing.assert_array_equal(block2(images, True), block2(images, False))


@pytest.mark.parametrize("kernels", [None, pytest.param(True, marks=SLOW)])
def test_the_rate_of_the_backbone(kernels):
    """Adam's first step is proportional to its rate; in float64 the quotient is exact to 1e-9."""
    names = ("blk1", "blk2", "blk3", "blk4", "part_streams")
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "STEPS", 1)
        whole, small = (
            take_steps(
                rate=rate, kernels=kernels, **{"model.dtype": "float32", "model.attention": "none"}
            )
            for rate in (1.0, 0.125)
        )
    for path, old in flatten_dict(whole[0].params).items():
        moved = [np.asarray(flatten_dict(after.params)[path], np.float64) - old
                 for _, after in (whole, small)]  # fmt: skip
        factor = 0.125 if path[0] in names else 1
        # float32 keeps 24 bits of a parameter of about 1, and a step is 5e-4.
        np.testing.assert_allclose(moved[1], factor * moved[0], atol=2e-7, err_msg=str(path))


def test_names_of_parts():
    assert parse_frozen(" blk2 , blk1,blk1") == ("blk1", "blk2")
    assert parse_frozen(",".join(FREEZABLE)) == FREEZABLE
    for given in ("blk5", "blk1,", "Blk1", "blk1;blk2", "appearance_head"):
        with pytest.raises(UserError, match=r"has the unknown part '.*': give some of blk1, blk2"):
            parse_frozen(given)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train.freeze": "blk9"}, r"config\.train\.freeze='blk9' has the unknown part"),
        ({"train.freeze": "bi_attention", "model.attention": "none"}, "which the network does not"),
        ({"train.freeze": "blk1,part_streams", "model.num_parts": 0}, "which the network does not"),
        ({"train.backbone_rate": 0.0}, r"config\.train\.backbone_rate=0\.0 must be above 0"),
    ],
)
def test_settings_that_cannot_work(fields, message):
    config = default_config()
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=message):
        validate(config)
