"""Bi-attention without Bi(x), compared with plain implementations.

Comparisons run in float64, where only the order of sums differs: 1e-10.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from support import network_oracle
from support.fast_jit import jit
from support.variants import few

from batnet_jax.models import BiAttention, second_order
from batnet_jax.models.bi_attention import bilinear, gated
from batnet_jax.models.layers import ConvBN
from batnet_jax.models.second_order import SecondOrderConv, pair_means, quadratic_forms, shift_table

close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
CHANNELS = [1, 2, 3, 7, 8, 120]


class PlainBiAttention(BiAttention):
    """The same block, computed with `bilinear`."""

    second_order_map = staticmethod(bilinear)

    @nn.compact
    def mask(self, x, *, train=False):
        channels = x.shape[-1]
        shared = {"axis_name": self.axis_name, "dtype": self.dtype}
        embedded = ConvBN(channels // self.reduction, name="embed", **shared)(x, train=train)
        mapped = self.second_order_map(embedded)
        local = ConvBN(channels, name="local", **shared)(mapped, train=train)
        if self.attention_in_attention:
            mean = mapped.mean((1, 2), keepdims=True)
            local = local * ConvBN(channels, name="global", **shared)(mean, train=train)
        return nn.sigmoid(local)


def outer_product(x):
    """Return Bi(x) as in the published code: all products, then the triangle."""
    rows, columns = np.triu_indices(x.shape[-1])
    return (x[..., :, None] * x[..., None, :])[..., rows, columns]


class OuterProductBiAttention(PlainBiAttention):
    second_order_map = staticmethod(outer_product)


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def forward_and_gradients(function, *operands):
    """Return the result, and the gradients of its product with a random direction."""

    @jit
    def run(*operands):
        out, pull = jax.vjp(function, *operands)
        (direction,) = draw(9, out.shape)
        return out, *pull(direction.astype(out.dtype))

    return run(*operands)


# The table.


@settings(deadline=None)
@given(channels=st.integers(1, 600))
def test_every_pair_is_in_the_table_once(channels):
    shifts, pairs = shift_table(channels)
    assert pairs.shape == (*shifts.shape, channels)
    assert shifts.max() <= channels
    number = channels * (channels + 1) // 2
    block, shift, i = np.nonzero(pairs < number)
    places = pairs[block, shift, i]
    assert np.array_equal(np.sort(places), np.arange(number))
    j = (i + shifts[block, shift]) % channels
    rows, columns = np.triu_indices(channels)
    assert np.array_equal(rows[places], np.minimum(i, j))
    assert np.array_equal(columns[places], np.maximum(i, j))
    assert pairs.max() <= number
    width = shifts.shape[1] * channels
    assert width <= max(second_order.BLOCK, channels)


def test_the_table_by_hand():
    shifts, pairs = shift_table(4)  # 00 01 02 03 11 12 13 22 23 33
    assert shifts.tolist() == [[0, 1, 2]]
    assert pairs.tolist() == [[[0, 4, 7, 9], [1, 5, 8, 3], [2, 6, 10, 10]]]


# The functions.


def test_quadratic_forms_by_hand():
    x = jnp.array([[2.0, 3.0]])  # 4, 6, 9
    got = quadratic_forms(x, jnp.array([[1.0, 0.0], [10.0, 0.0], [100.0, 1.0]]))
    np.testing.assert_array_equal(got, [[964, 9]])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("block", [1, 20, 512])
@pytest.mark.parametrize("channels", CHANNELS)
def test_quadratic_forms_equal_the_product_of_the_map(channels, block, monkeypatch):
    monkeypatch.setattr(second_order, "BLOCK", block)
    x, kernel = draw(channels, (6, channels), (channels * (channels + 1) // 2, 5))
    got = forward_and_gradients(quadratic_forms, x, kernel)
    expected = forward_and_gradients(lambda x, kernel: bilinear(x) @ kernel, x, kernel)
    jax.tree.map(close, got, expected)


@pytest.mark.usefixtures("float64")
@settings(deadline=None, max_examples=5)
@given(
    channels=st.integers(1, 20), positions=st.integers(1, 9), outputs=st.integers(1, 6),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_quadratic_forms_of_any_shape(channels, positions, outputs, seed):
    shape = (channels * (channels + 1) // 2, outputs)
    x, kernel = draw(seed, (positions, channels), shape)
    got = forward_and_gradients(quadratic_forms, x, kernel)
    expected = forward_and_gradients(lambda x, kernel: bilinear(x) @ kernel, x, kernel)
    jax.tree.map(close, got, expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("channels", CHANNELS)
def test_pair_means_are_the_means_of_the_map(channels):
    (x,) = draw(0, (3, 4, 2, channels))
    got = forward_and_gradients(pair_means, x)
    expected = forward_and_gradients(lambda x: bilinear(x).mean((1, 2), keepdims=True), x)
    assert got[0].shape == (3, 1, 1, channels * (channels + 1) // 2)
    jax.tree.map(close, got, expected)


@pytest.mark.usefixtures("float64")
def test_they_can_be_mapped():
    x, kernel = draw(0, (2, 6, 7), (28, 5))

    def run(function):
        def gradients(x, kernel):
            return jax.grad(lambda *a: jnp.sin(function(*a)).sum(), (0, 1))(x, kernel)

        return jit(jax.vmap(gradients, (0, None)))(x, kernel)

    jax.tree.map(close, run(quadratic_forms), run(lambda x, kernel: bilinear(x) @ kernel))


def test_bfloat16_sums_in_float32():
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in draw(0, (300, 24), (300, 5)))
    got = forward_and_gradients(quadratic_forms, x, kernel)
    assert {leaf.dtype for leaf in got} == {np.dtype(jnp.bfloat16)}
    exact = forward_and_gradients(
        lambda x, kernel: bilinear(x) @ kernel, x.astype(jnp.float32), kernel.astype(jnp.float32)
    )
    for a, b in zip(got, exact, strict=True):
        # Products and result are rounded to 8 bits; a bfloat16 sum of 300 would have errors of 0.1.
        assert np.abs(np.float32(a) - b).max() < 2**-7 * np.abs(b).max()


# The modules.


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("use_bias", [True, False])
def test_the_convolution_has_the_parameters_of_the_plain_one(use_bias):
    (x,) = draw(0, (3, 4, 2, 7))
    options = {"use_bias": use_bias, "kernel_init": nn.initializers.lecun_normal()}
    ours = SecondOrderConv(5, dtype=jnp.float64, **options)
    plain = nn.Conv(5, (1, 1), dtype=jnp.float64, **options)
    drawn = ours.init(jax.random.key(3), x)
    jax.tree.map(np.testing.assert_array_equal, drawn, plain.init(jax.random.key(3), bilinear(x)))
    assert {leaf.dtype for leaf in jax.tree.leaves(drawn)} == {np.dtype("float32")}
    variables = network_oracle.random_values(drawn, 1)

    def added(v, x):
        y, bias = ours.apply(v, x)
        return y + bias if use_bias else y

    got = forward_and_gradients(added, variables, x)
    expected = forward_and_gradients(lambda v, x: plain.apply(v, bilinear(x)), variables, x)
    jax.tree.map(close, got, expected)


@pytest.mark.parametrize("aia", [True, False], ids=["aia", "plain"])
def test_the_blocks_variables_and_initial_values_are_those_of_the_plain_one(aia):
    x = jnp.ones((2, 4, 2, 12))
    ours, plain = (
        jit(partial(block(3, aia).init, train=True))(jax.random.key(5), x)
        for block in (BiAttention, PlainBiAttention)
    )
    assert jax.tree.structure(ours) == jax.tree.structure(plain)
    jax.tree.map(np.testing.assert_array_equal, ours, plain)
    assert ours["params"]["local"]["conv"]["kernel"].shape == (1, 1, 10, 12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("aia", [True, False], ids=["aia", "plain"])
@pytest.mark.parametrize("channels", few([3, 12, 21], keep=[0, 2]))  # an embedding of 1, 4 and 7
def test_the_block_equals_the_plain_one(channels, aia, train):
    (x,) = draw(0, (5, 4, 2, channels))
    results = []
    for kind in (BiAttention, PlainBiAttention):
        block = kind(3, aia, dtype=jnp.float64)
        variables = network_oracle.random_values(
            jax.eval_shape(partial(block.init, train=True), jax.random.key(0), x), 1
        )

        def run(params, x, block=block, stats=variables["batch_stats"]):
            return block.apply(
                {"params": params, "batch_stats": stats}, x, train=train, mutable=["batch_stats"]
            )

        results.append(forward_and_gradients(lambda p, x, run=run: run(p, x)[0],
                                             variables["params"], x))  # fmt: skip
        results[-1] = results[-1], jit(run)(variables["params"], x)[1]
    jax.tree.map(close, *results)


# The gate, and memory.


@pytest.mark.usefixtures("float64")
def test_the_gate_is_a_product():
    operands = draw(0, (3, 4, 2, 5), (3, 1, 1, 5))
    got = forward_and_gradients(gated, *operands)
    jax.tree.map(close, got, forward_and_gradients(lambda x, gate: x * gate, *operands))


def temporaries(block, images):
    """Return the bytes of temporaries in the forward and backward passes of a block."""
    x = jax.ShapeDtypeStruct((images, 16, 8, 480), jnp.float32)
    variables = jax.eval_shape(partial(block.init, train=True), jax.random.key(0), x)

    def run(variables, x, dy):
        def apply(params, x):
            return block.apply(
                variables | {"params": params}, x, train=True, mutable=["batch_stats"]
            )

        out, pull, stats = jax.vjp(apply, variables["params"], x, has_aux=True)
        return out, stats, pull(dy)

    return jit(run).lower(variables, x, x).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow  # three blocks of the full size are compiled
def test_the_block_takes_a_fraction_of_the_plain_ones_memory():
    ours = temporaries(BiAttention(), 64)
    # Bi(x) alone is 227 MiB; measured: 84 MiB, 928 MiB, 2040 MiB.
    assert ours < 90 * 2**20
    assert ours < temporaries(PlainBiAttention(), 64) / 10
    assert ours < temporaries(OuterProductBiAttention(), 64) / 23
