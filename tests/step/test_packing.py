"""A packed state: the same values and the same steps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.fast_jit import jit

from batnet_jax.config import default_config
from batnet_jax.step.packing import Packed, pack, pack_like, pack_state, unpack, unpack_state
from batnet_jax.step.train_step import init_state, make_recipe, train_step

TREE = {
    "a": {"bias": np.arange(3.0), "kernel": np.arange(10.0, 22).reshape(3, 4)},
    "b": [np.array(5.0), np.arange(2.0), np.zeros((0, 2))],
}


def assert_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("kernels", [True, False])
def test_unpacking_inverts_packing(kernels):
    packed = pack(TREE, kernels=kernels)
    assert isinstance(packed.joined, np.ndarray)  # it was not copied to a device
    assert packed.joined.shape == ((18,) if kernels else (5,))
    assert len(packed.others) == (0 if kernels else 3)
    assert_equal(unpack(packed), TREE)
    assert_equal(jax.jit(lambda packed: unpack(packed))(packed), jax.tree.map(jnp.asarray, TREE))
    assert_equal(unpack(TREE), TREE)


@pytest.mark.parametrize("kernels", [True, False])
def test_gradients_are_packed_like_the_parameters(kernels):
    like = pack(TREE, kernels=kernels)
    gradients = jax.tree.map(lambda leaf: 2 * leaf, TREE)
    packed = pack_like(gradients, like)
    assert jax.tree.structure(packed) == jax.tree.structure(like)
    np.testing.assert_array_equal(packed.joined, 2 * like.joined)
    assert pack_like(gradients, TREE) is gradients


def test_arrays_of_several_types_cannot_be_packed():
    tree = {"count": np.zeros(3, np.int32), "scale": np.ones(2, np.float32)}
    with pytest.raises(TypeError, match=r"float32.*int32"):
        pack(tree, kernels=False)


def test_a_tree_without_vectors_and_an_empty_tree():
    for tree in ({"kernel": np.ones((2, 3))}, {}):
        assert_equal(unpack(pack(tree, kernels=False)), tree)
        assert_equal(unpack(pack(tree, kernels=True)), tree)


@pytest.mark.parametrize(("backend", "arrays"), [("gpu", 1), ("cpu", 4), ("tpu", 4)])
def test_kernels_are_packed_on_a_gpu_only(backend, arrays, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert len(jax.tree.leaves(pack_state([TREE])[0])) == arrays


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def make_step(kernels):
    """Return a recipe, its fresh state, the packed state, and a batch."""
    config = default_config()
    config.model.update({"width": 1 / 16, "dtype": "float64", "num_parts": 0, "backbone": "toy"})
    recipe = make_recipe(config, num_identities=4, steps_per_epoch=1, axis_name=None)
    state = jax.tree.map(
        lambda leaf: leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf,
        init_state(recipe, (64, 32)),
    )
    packed = pack_state(state, kernels=kernels)
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 32, 3)).astype(np.uint8)
    return recipe, state, packed, {"image": images, "label": np.repeat(np.arange(4), 2)}


@pytest.mark.slow  # test_averaging and test_freezing take packed steps
@pytest.mark.usefixtures("x64")
def test_steps_on_a_packed_state_are_the_same_steps():
    recipe, first, _, batch = make_step(kernels=True)
    step = jit(partial(train_step, recipe=recipe))
    state, _ = step(first, batch)
    state, plain = step(state, batch)
    close = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9)
    for kernels in (True, False):
        packed = pack_state(first, kernels=kernels)
        assert_equal(unpack_state(packed), first)
        few = len(jax.tree.leaves(packed))
        assert few == 8 if kernels else few < len(jax.tree.leaves(first)) / 3
        packed, _ = step(packed, batch)
        packed, figures = step(packed, batch)
        assert isinstance(packed.params, Packed)
        jax.tree.map(close, figures, plain)
        jax.tree.map(close, unpack_state(jax.device_get(packed)), jax.device_get(state))


@pytest.mark.usefixtures("x64")
def test_a_packed_state_keeps_its_form():
    """Otherwise the second step would be compiled again."""
    recipe, _, packed, batch = make_step(kernels=True)
    after, _ = jax.eval_shape(partial(train_step, recipe=recipe), packed, batch)
    assert jax.tree.structure(after) == jax.tree.structure(packed)
    before, after = (jax.tree.map(lambda x: (x.shape, x.dtype), s) for s in (packed, after))
    assert after == before
