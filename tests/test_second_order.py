"""Bi-attention without Bi(x), against Bi-attention with it.

In float64 only the order of sums differs: 1e-10.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from batnet_jax.models import BiAttention
from batnet_jax.models.bi_attention import bilinear
from batnet_jax.models.layers import ConvBN
from batnet_jax.models.second_order import mean_of_pairs, pair_indices, quadratic_forms

close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)


class WithTheMap(nn.Module):
    """Eq. 1-6 as they are written."""

    reduction: int = 4
    attention_in_attention: bool = True
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        channels, shared = x.shape[-1], {"dtype": self.dtype}
        embedded = ConvBN(max(1, channels // self.reduction), name="embed", **shared)(
            x, train=train
        )
        pairs = bilinear(embedded)
        local = ConvBN(channels, name="local", **shared)(pairs, train=train)
        if self.attention_in_attention:
            mean = pairs.mean((1, 2), keepdims=True)
            local = local * ConvBN(channels, name="global", **shared)(mean, train=train)
        return x * nn.sigmoid(local)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 8, 31, 120])
def test_the_shifts_have_every_pair_once(channels):
    place = pair_indices(channels)
    assert place.shape == (channels // 2 + 1, channels)
    pairs = {pair: k for k, pair in enumerate(zip(*np.triu_indices(channels), strict=True))}
    for shift, row in enumerate(place):
        for first, k in enumerate(row):
            pair = tuple(sorted((first, (first + shift) % channels)))
            assert k in (pairs[pair], len(pairs))
    assert sorted(place[place < len(pairs)].tolist()) == list(range(len(pairs)))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("channels", "rows", "outputs"), [(1, 3, 2), (2, 1, 1), (3, 4, 2), (8, 5, 3), (25, 2, 4)]
)
def test_quadratic_forms_and_their_gradients(channels, rows, outputs):
    rng = np.random.default_rng(channels)
    x = rng.standard_normal((rows, channels))
    kernel = rng.standard_normal((channels * (channels + 1) // 2, outputs))
    slow = np.zeros((rows, outputs))
    for k, (i, j) in enumerate(zip(*np.triu_indices(channels), strict=True)):
        slow += np.outer(x[:, i] * x[:, j], kernel[k])
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    weights = jnp.asarray(rng.standard_normal(slow.shape))

    @partial(jax.jit, static_argnums=0)
    def both(form):
        y, pull = jax.vjp(form, x, kernel)
        return y, pull(weights)

    got = both(quadratic_forms)
    close(got[0], slow)
    jax.tree.map(close, got, both(lambda x, kernel: bilinear(x) @ kernel))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("channels", [1, 6, 13])
def test_mean_of_pairs(channels):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 2, channels)))
    got, pull = jax.vjp(mean_of_pairs, x)
    expected, slow_pull = jax.vjp(lambda x: bilinear(x).mean((1, 2), keepdims=True), x)
    close(got, expected)
    close(pull(got)[0], slow_pull(got)[0])


def loss(variables, x, model):
    y, updates = model.apply(variables, x, train=True, mutable=["batch_stats"])
    return (y**2).sum() + (y * jnp.cos(x)).sum(), (y, updates)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("attention_in_attention", [True, False])
@pytest.mark.parametrize(("channels", "reduction"), [(24, 4), (20, 4), (6, 8)])
def test_the_block_is_the_block_as_written(attention_in_attention, channels, reduction):
    shared = {
        "reduction": reduction,
        "attention_in_attention": attention_in_attention,
        "dtype": jnp.float64,
    }
    ours, plain = BiAttention(**shared), WithTheMap(**shared)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((4, 5, 3, channels)))
    variables = ours.init(jax.random.key(0), x, train=True)
    expected = plain.init(jax.random.key(0), x, train=True)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)  # names, shapes, values
    results = [
        jax.jit(jax.value_and_grad(partial(loss, model=model), argnums=(0, 1), has_aux=True))(
            variables, x
        )
        for model in (ours, plain)
    ]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-8), *results)
    close(ours.apply(variables, x, train=False), plain.apply(variables, x, train=False))


def test_bfloat16_rounds_no_more_than_the_map_does():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((64, 24)).astype(np.float32)
    kernel = rng.standard_normal((300, 8)).astype(np.float32)
    exact = np.float64(bilinear(jnp.asarray(x))) @ np.float64(kernel)
    halves = jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)
    got = quadratic_forms(*halves)
    assert got.dtype == jnp.bfloat16
    mine, theirs = (
        np.abs(np.float64(y) - exact).mean() for y in (got, bilinear(halves[0]) @ halves[1])
    )
    assert mine < 1.1 * theirs
    gradients = jax.grad(lambda *a: quadratic_forms(*a).astype(jnp.float32).sum(), (0, 1))(*halves)
    assert [g.dtype for g in gradients] == [jnp.bfloat16] * 2


class Gathered(nn.Module):
    """Bi() as the field writes it: all products of two channels, of which half are taken."""

    @nn.compact
    def __call__(self, x, *, train):
        embedded = ConvBN(x.shape[-1] // 4, name="embed")(x, train=train)
        first, second = np.triu_indices(embedded.shape[-1])
        products = embedded[..., :, None] * embedded[..., None, :]
        products = products.reshape(*embedded.shape[:-1], -1)
        pairs = products[..., first * embedded.shape[-1] + second]
        local = ConvBN(x.shape[-1], name="local")(pairs, train=train)
        mean = pairs.mean((1, 2), keepdims=True)
        return x * nn.sigmoid(local * ConvBN(x.shape[-1], name="global")(mean, train=train))


def test_memory_of_forward_and_backward():
    """What XLA says that it will allocate at batch 64, r = 4, 16 x 8 pixels: here 1/20."""

    def temporaries(model):
        x = jax.ShapeDtypeStruct((64, 16, 8, 480), jnp.float32)
        variables = jax.eval_shape(partial(model.init, train=True), jax.random.key(0), x)
        step = jax.jit(jax.grad(partial(loss, model=model), argnums=(0, 1), has_aux=True))
        return step.lower(variables, x).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(BiAttention()) <= temporaries(Gathered()) / 15
