"""The Bi-attention's kernels.

Comparisons run in float64, where only the order of sums differs: 1e-10 through a block.
"""

import hashlib
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import network_oracle
from support.fast_jit import jit
from support.networks import OPTIONS, shapes_of
from support.variants import few

from batnet_jax.models import KERNELS, BATNet, BiAttention
from batnet_jax.models.bi_attention import fourier_projection, linear, random_fourier

close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)


def leaf_count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# The kernels.


def test_linear_is_the_identity():
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 7))
    np.testing.assert_array_equal(linear(x), x)


def slow_fourier(x, factor, bandwidth):
    """Compute one feature of one vector at a time, in float64."""
    channels = x.shape[-1]
    features = factor * channels
    weights, phases = fourier_projection(channels, features, bandwidth * channels**0.5)
    rows = [
        [
            math.sqrt(2 / features)
            * math.cos(sum(w * v for w, v in zip(weights[:, k], row, strict=True)) + phases[k])
            for k in range(features)
        ]
        for row in x.reshape(-1, channels)
    ]
    return np.array(rows).reshape(*x.shape[:-1], features)


@pytest.mark.usefixtures("float64")
def test_random_fourier_equals_its_formula():
    x = 3 * np.random.default_rng(0).normal(size=(2, 3, 2, 5))
    got = random_fourier(x, factor=3, bandwidth=0.7)
    assert got.shape == (2, 3, 2, 15)
    assert got.dtype == np.float64
    close(got, slow_fourier(x, 3, 0.7))


def test_random_fourier_keeps_the_type_and_float32_precision():
    x = np.random.default_rng(0).normal(size=(40, 16)).astype(jnp.bfloat16)
    got = random_fourier(jnp.asarray(x), factor=4, bandwidth=0.58)
    assert got.dtype == jnp.bfloat16
    expected = slow_fourier(x.astype(np.float64), 4, 0.58)
    # The argument is exact, so what remains is the rounding of the result: 8 bits.
    np.testing.assert_allclose(np.float64(got), expected, rtol=2**-8, atol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("bandwidth", few([0.5, 1.0], keep=[1]))
def test_inner_products_converge_to_the_gaussian_kernel(bandwidth):
    channels = 5
    x = np.random.default_rng(1).normal(size=(12, channels))
    squares = ((x[:, None] - x[None]) ** 2).sum(-1)
    sigma = bandwidth * math.sqrt(channels)
    expected = np.exp(-squares / (2 * sigma**2))
    assert expected.min() < 0.3  # the points are not all near each other
    errors = {}
    for factor in (20, 20_000):
        z = np.asarray(random_fourier(x, factor=factor, bandwidth=bandwidth))
        errors[factor] = np.abs(z @ z.T - expected)
        # 2 cos cos has a variance of at most 1: five standard deviations of the mean of D.
        assert errors[factor].max() < 5 / math.sqrt(factor * channels)
    # 1000 times the features divide the error by 32.
    assert errors[20_000].mean() < errors[20].mean() / 10


def test_the_projection_is_the_same_everywhere():
    weights, phases = fourier_projection(3, 4, 2.0)
    digest = hashlib.sha256(weights.astype("<f4").tobytes() + phases.astype("<f4").tobytes())
    # Trained networks depend on these values: if this fails, correct the code, not the digest.
    assert digest.hexdigest() == "ed56f603bf732f0a0ed2e18b6c9152a00af1e126d7ad9112ac0fe08b81480ef8"
    np.testing.assert_array_equal(fourier_projection(3, 4, 1.0)[0], 2 * weights)


def test_the_projection_follows_its_law():
    sigma = 3.0
    weights, phases = fourier_projection(120, 480, sigma)
    values = weights.ravel() * sigma
    n = len(values)
    # Five standard deviations of each estimate; the range of `phases` is exact.
    assert abs(values.mean()) < 5 / math.sqrt(n)
    assert abs(values.std() - 1) < 5 / math.sqrt(2 * n)
    assert phases.min() >= 0
    assert phases.max() < 2 * np.pi
    assert abs(phases.mean() - np.pi) < 5 * 2 * np.pi / math.sqrt(12 * len(phases))
    columns = weights / np.linalg.norm(weights, axis=0)
    assert np.abs(columns.T @ columns - np.eye(480)).max() < 0.6  # all features differ


def test_at_the_default_bandwidth_the_cosines_argument_starts_with_unit_variance():
    # The embedding starts as the ReLU of normalised values.
    x = np.maximum(0, np.random.default_rng(0).normal(size=(2000, 120)))
    block = BiAttention()
    weights, _ = fourier_projection(120, 480, block.rff_bandwidth * math.sqrt(120))
    assert (x @ weights).var(0).mean() == pytest.approx(1, abs=0.05)


# The block.


def conv_bn(x, params, stats, train):
    """Apply a 1x1 convolution, batch normalisation and ReLU."""
    y = x @ params["conv"]["kernel"][0, 0] + params["conv"]["bias"]
    mean, var = stats["bn"]["mean"], stats["bn"]["var"]
    if train:
        mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
    y = (y - mean) / np.sqrt(var + 1e-5) * params["bn"]["scale"] + params["bn"]["bias"]
    return np.maximum(y, 0)


def slow_bilinear(x):
    pairs = [(i, j) for i in range(x.shape[-1]) for j in range(i, x.shape[-1])]
    return np.stack([x[..., i] * x[..., j] for i, j in pairs], -1)


SLOW = {
    "linear": lambda x: x,
    "bilinear": slow_bilinear,
    "rff": partial(slow_fourier, factor=2, bandwidth=0.8),
}


def block_and_values(kernel, x, aia=True):
    block = BiAttention(3, aia, kernel, **OPTIONS, dtype=jnp.float64)
    return block, network_oracle.random_values(shapes_of(block, x.shape), 1)


def test_every_kernel_has_an_oracle():
    assert set(SLOW) == set(KERNELS)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("aia", "train"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_the_block_equals_its_parts(kernel, aia, train):
    x = np.random.default_rng(0).normal(size=(5, 4, 3, 12))
    block, variables = block_and_values(kernel, x, aia)
    params, stats = variables["params"], variables["batch_stats"]
    mapped = SLOW[kernel](conv_bn(x, params["embed"], stats["embed"], train))
    expected = conv_bn(mapped, params["local"], stats["local"], train)
    if aia:
        m = mapped.mean((1, 2), keepdims=True)
        expected = expected * conv_bn(m, params["global"], stats["global"], train)
    run = jit(partial(block.apply, train=train, mutable=["batch_stats"], method="mask"))
    got, _ = run(variables, x)
    close(got, 1 / (1 + np.exp(-expected)))
    assert np.ptp(got) > 0.1


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kernel", ["linear", "rff"])
def test_gradients_flow_through_the_kernel(kernel):
    x = np.random.default_rng(0).normal(size=(5, 4, 3, 12))
    block, variables = block_and_values(kernel, x)
    weights = np.random.default_rng(1).normal(size=x.shape)

    @jit
    @jax.value_and_grad
    def loss_of(values):
        out, _ = block.apply(
            {**variables, "params": values["params"]}, values["x"], train=True,
            mutable=["batch_stats"],
        )  # fmt: skip
        return (weights * out).sum()

    values = {"params": variables["params"], "x": x}
    gradient = loss_of(values)[1]
    assert np.abs(gradient["params"]["embed"]["conv"]["kernel"]).max() > 1e-3
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), values)
    step = 1e-6

    def moved(sign):
        return loss_of(jax.tree.map(lambda v, d: v + sign * step * d, values, direction))[0]

    slope = (moved(1) - moved(-1)) / (2 * step)
    along = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)))
    # Central differences: rounding 1e-16 / step and curvature step^2; the sums are some hundreds.
    np.testing.assert_allclose(along, slope, rtol=1e-6)


def test_the_projection_is_no_variable():
    shapes = {
        kernel: shapes_of(BiAttention(kernel=kernel), (2, 4, 4, 16)) for kernel in sorted(KERNELS)
    }
    assert set(shapes["rff"]) == {"params", "batch_stats"}
    structures = {jax.tree.structure(tree) for tree in shapes.values()}
    assert len(structures) == 1
    inputs = {kernel: tree["params"]["local"]["conv"]["kernel"].shape[2]
              for kernel, tree in shapes.items()}  # fmt: skip
    assert inputs == {"linear": 4, "bilinear": 10, "rff": 16}


# Counts for the appearance extractor alone at width 1, r = 4. A convolution from i to o channels
# has i o + 3 o parameters with its normalisation.

WITHOUT_ATTENTION = 6_601_286  # test_models
EMBED_P2 = 480 * 120 + 3 * 120
COUNTS = [
    ({"kernel": "linear"}, EMBED_P2 + 2 * (120 * 480 + 3 * 480)),
    ({"kernel": "linear", "attention": "plain"}, EMBED_P2 + 120 * 480 + 3 * 480),
    ({"kernel": "rff"}, EMBED_P2 + 2 * (480 * 480 + 3 * 480)),
    ({"kernel": "rff", "rff_factor": 1}, EMBED_P2 + 2 * (120 * 480 + 3 * 480)),
    (
        {"kernel": "linear", "position": "p2,p4"},
        EMBED_P2 + 2 * (120 * 480 + 3 * 480)
        + 1024 * 256 + 3 * 256 + 2 * (256 * 1024 + 3 * 1024),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("variant", "added"), few(COUNTS, keep=[0, len(COUNTS) - 1]), ids=str)
def test_parameter_counts(variant, added):
    params = shapes_of(BATNet(50, num_parts=0, **variant), (2, 256, 128, 3))["params"]
    assert leaf_count(params) == WITHOUT_ATTENTION + added
