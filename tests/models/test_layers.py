"""Layers compared with the oracle in float64, where only the order of sums differs: 1e-10."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support import network_oracle

from batnet_jax.models import layers
from batnet_jax.models.layers import BatchNorm, ConvBN, Dropout
from batnet_jax.runtime.devices import AXIS

close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=["cuda", "cpu", "tpu", "default"])
def platform(request, monkeypatch):
    """Statistics as on an NVIDIA GPU, on a CPU, on a TPU, and elsewhere."""

    def chosen(*args, **forms):
        return forms.get(request.param, forms["default"])(*args)

    monkeypatch.setattr(layers.lax, "platform_dependent", chosen)


def bn_variables(rng, channels):
    params = {"scale": rng.uniform(0.5, 2, channels), "bias": rng.normal(size=channels)}
    stats = {"mean": rng.normal(size=channels), "var": rng.uniform(0.5, 2, channels)}
    return params, stats


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (7, 6)])
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_equals_the_oracle(rng, shape, train):
    params, stats = bn_variables(rng, shape[-1])
    x = 3 * rng.normal(size=shape) + 2
    y, updates = BatchNorm(dtype=jnp.float64).apply(
        {"params": params, "batch_stats": stats}, x, train=train, mutable=["batch_stats"]
    )
    expected, new_stats = network_oracle.batch_norm(x, params, stats, train)
    close(y, expected)
    jax.tree.map(close, updates["batch_stats"], new_stats)


def test_batch_norm_running_variance_by_hand():
    # Values 1 and 3: mean 2, biased variance 1, unbiased 2.
    module = BatchNorm(dtype=jnp.float64)
    variables = {
        "params": {"scale": np.ones(1), "bias": np.zeros(1)},
        "batch_stats": {"mean": np.zeros(1), "var": np.ones(1)},
    }
    y, updates = module.apply(
        variables, np.array([[1.0], [3.0]]), train=True, mutable=["batch_stats"]
    )
    close(y[:, 0], np.array([-1, 1]) / np.sqrt(1 + 1e-5))
    close(updates["batch_stats"]["mean"], [0.9 * 0 + 0.1 * 2])
    close(updates["batch_stats"]["var"], [0.9 * 1 + 0.1 * 2])


def plain_batch_norm(x, scale, bias):
    """Normalise without the custom gradient: JAX differentiates this function."""
    axes = tuple(range(x.ndim - 1))
    return (x - x.mean(axes)) / jnp.sqrt(x.var(axes) + 1e-5) * scale + bias


def own_batch_norm(x, scale, bias, axis_name=None):
    stats = {"mean": jnp.zeros_like(bias), "var": jnp.ones_like(bias)}
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
    module = BatchNorm(axis_name=axis_name, dtype=jnp.float64)
    return module.apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.mark.usefixtures("platform")
def test_batch_norm_gradient(rng):
    x, weights = rng.normal(size=(2, 4, 3, 3, 5)) * 2 + 1
    scale, bias = rng.uniform(0.5, 2, 5), rng.normal(size=5)

    def loss(args, normalise):
        return (weights * jnp.sin(normalise(*args))).sum()

    own = partial(loss, normalise=lambda *args: own_batch_norm(*args)[0])
    got = jax.grad(own)((x, scale, bias))
    jax.tree.map(close, got, jax.grad(partial(loss, normalise=plain_batch_norm))((x, scale, bias)))
    # Central differences along a random direction: error O(h^2) = 1e-8 relative and rounding.
    direction = [rng.normal(size=a.shape) for a in (x, scale, bias)]
    step = 1e-5
    moved = [
        own(tuple(a + sign * step * d for a, d in zip((x, scale, bias), direction, strict=True)))
        for sign in (1, -1)
    ]
    slope = sum((g * d).sum() for g, d in zip(got, direction, strict=True))
    np.testing.assert_allclose(slope, (moved[0] - moved[1]) / (2 * step), rtol=1e-6)


@pytest.mark.usefixtures("platform")
def test_batch_norm_over_devices_is_that_of_the_global_batch(rng):
    x, weights = rng.normal(size=(2, 8, 3, 2, 5)) * 2 + 1
    scale, bias = rng.uniform(0.5, 2, 5), rng.normal(size=5)

    def loss(x, scale, bias, weights, axis_name=None):
        y, updates = own_batch_norm(x, scale, bias, axis_name)
        return (weights * jnp.sin(y)).mean(), (y, updates["batch_stats"])

    gradient = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    (whole_loss, (whole_y, whole_stats)), whole = gradient(x, scale, bias, weights)

    def device(x, weights, axis_name):
        (value, (y, stats)), grads = gradient(x, scale, bias, weights, axis_name)
        return jax.lax.pmean((value, grads[1:]), AXIS), grads[0], y, stats

    split = [a.reshape(4, 2, *a.shape[1:]) for a in (x, weights)]
    (value, (d_scale, d_bias)), dx, y, stats = jax.vmap(
        partial(device, axis_name=AXIS), axis_name=AXIS
    )(*split)
    close(value, np.full(4, whole_loss))
    close(y.reshape(x.shape), whole_y)
    close(dx.reshape(x.shape) / 4, whole[0])  # a device's loss is a mean over its own images
    close(d_scale, np.tile(whole[1], (4, 1)))
    close(d_bias, np.tile(whole[2], (4, 1)))
    for name in ("mean", "var"):  # the unbiased variance divides by the global count - 1
        close(stats[name], np.tile(whole_stats[name], (4, 1)))
    alone = jax.vmap(partial(device, axis_name=None), axis_name=AXIS)(*split)[-1]
    assert np.abs(alone["mean"] - whole_stats["mean"]).max() > 1e-3


CUDA, CPU = layers._moments_on_cuda, layers._moments_on_cpu


@pytest.mark.parametrize(
    ("moments", "mean", "error"),
    [
        *((CUDA, 0, 1e-5), (CUDA, 1e3, 1e-5), (CUDA, 1e5, 1e-4)),
        *((CPU, 0, 1e-6), (CPU, 3.5, 3e-5), (CPU, 5, 1e-6), (CPU, 1e3, 1e-6)),
        (CPU, 1e4, 1e-4),  # the rounding of the mean
    ],
)
def test_moments_in_float32_with_a_large_mean(rng, moments, mean, error):
    # At 1e5 the sums of x and of its square alone would lose every digit of the variance.
    x = (mean + rng.normal(size=(16, 8, 4, 6))).astype(np.float32)
    exact = x.astype(np.float64)
    got = moments(jnp.asarray(x))
    np.testing.assert_allclose(got[0], exact.mean((0, 1, 2)), rtol=1e-6, atol=3e-6)
    np.testing.assert_allclose(got[1], exact.var((0, 1, 2)), rtol=error)
    assert np.all(moments(jnp.full((2, 3, 3, 4), mean, jnp.float32))[1] == 0)


def test_on_a_cpu_small_means_take_the_sum_of_squares(rng):
    x = (3.5 + rng.normal(size=(16, 8, 4, 6))).astype(np.float32)
    dy = rng.normal(size=x.shape).astype(np.float32)
    axes, (x, dy) = (0, 1, 2), map(jnp.asarray, (x, dy))
    mean, var = layers._moments_on_cpu(x)
    np.testing.assert_array_equal(var, jnp.square(x).mean(axes) - jnp.square(mean))
    assert np.any(var != layers._moments(x)[1])
    d_bias, products = layers._gradient_sums_on_cpu(dy, x, mean, 1 / jnp.sqrt(var))
    quick = jax.jit(lambda dy, x: (dy * x).sum(axes) - mean * d_bias)(dy, x)
    np.testing.assert_allclose(products, quick, rtol=1e-6)
    assert np.any(np.abs(layers._gradient_sums(dy, x, mean, None)[1] / quick - 1) > 2e-6)


def test_on_a_cpu_one_large_mean_takes_the_centred_sum(rng):
    x = rng.normal(size=(16, 8, 4, 6)).astype(np.float32)
    x[..., 2] += 1e3
    got = layers._moments_on_cpu(jnp.asarray(x))[1]
    np.testing.assert_allclose(got, x.astype(np.float64).var((0, 1, 2)), rtol=1e-6)


@pytest.mark.parametrize("mean", [0, 3.5, 5, 1e3])
def test_gradient_sums_on_a_cpu_in_float32_with_a_large_mean(rng, mean):
    x = (mean + rng.normal(size=(16, 8, 4, 6))).astype(np.float32)
    dy = rng.normal(size=x.shape).astype(np.float32)
    exact = x.astype(np.float64)
    rounded, inverse = exact.mean((0, 1, 2)).astype(np.float32), 1 / exact.std((0, 1, 2))
    arguments = map(partial(jnp.asarray, dtype=jnp.float32), (dy, x, rounded, inverse))
    got = layers._gradient_sums_on_cpu(*arguments)
    np.testing.assert_allclose(got[0], dy.sum((0, 1, 2), np.float64), atol=1e-4)
    # Sums of 512 values of about 1 are about 20.
    np.testing.assert_allclose(got[1], (dy * (exact - rounded)).sum((0, 1, 2)), atol=2e-4)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_bias_before_batch_norm_has_no_gradient_and_moves_the_running_mean(rng, kernel):
    x, weights = rng.normal(size=(4, 6, 5, 3)), rng.normal(size=(4, 6, 5, 2))
    module = ConvBN(2, kernel, dtype=jnp.float64)
    shapes = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), x)
    variables = network_oracle.random_values(shapes, 1)

    def loss(bias):
        params = {**variables["params"], "conv": {**variables["params"]["conv"], "bias": bias}}
        y, updates = module.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        return (weights * y).sum(), updates["batch_stats"]["bn"]

    bias = variables["params"]["conv"]["bias"]
    gradient, before = jax.grad(loss, has_aux=True)(bias)
    assert np.all(np.asarray(gradient) == 0)
    (moved, after), (still, _) = loss(bias + np.array([1, -2])), loss(bias)
    close(moved, still)
    close(after["mean"] - before["mean"], [0.1, -0.2])


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (7, 2), (1, 2)])
@pytest.mark.parametrize("train", [True, False])
def test_conv_bn_equals_the_oracle(rng, kernel, stride, train):
    x = rng.normal(size=(2, 6, 5, 3))
    module = ConvBN(4, kernel, stride, dtype=jnp.float64)
    shapes = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), x)
    variables = network_oracle.random_values(shapes, 1)
    y, updates = module.apply(variables, x, train=train, mutable=["batch_stats"])
    expected, stats = network_oracle.conv_bn(
        x, variables["params"], variables["batch_stats"], train, stride
    )
    close(y, expected)
    jax.tree.map(close, updates["batch_stats"], stats)


def test_pointwise_convolution_is_a_matrix_product(rng):
    x = rng.normal(size=(2, 4, 3, 6))
    module = ConvBN(5, 1, dtype=jnp.float64)
    variables = module.init(jax.random.key(0), x, train=False)
    apply = partial(module.apply, variables, train=False)
    assert "conv_general_dilated" not in str(jax.make_jaxpr(apply)(x))
    params = variables["params"]["conv"]
    convolved = nn.Conv(5, (1, 1), dtype=jnp.float64).apply({"params": params}, x)
    close(apply(x), np.maximum(convolved, 0) / np.sqrt(1 + 1e-5))


def dropped(x, key, **kwargs):
    return Dropout(0.25, **kwargs).apply({}, x, train=True, rngs={"dropout": key})


def test_dropout_rate_and_scale():
    x = np.ones((1000, 100))
    y = np.asarray(dropped(x, jax.random.key(0)))
    assert set(np.unique(y)) == {0.0, 1 / 0.75}
    # 100,000 draws: five standard deviations are 0.007.
    assert abs((y == 0).mean() - 0.25) < 0.007
    assert (dropped(x, jax.random.key(1)) != y).any()


def test_dropout_does_not_depend_on_the_number_of_devices(rng):
    x = rng.normal(size=(8, 50))
    key = jax.random.key(3)
    whole = dropped(x, key)
    for count in (2, 4, 8):
        share = jax.vmap(partial(dropped, key=key, axis_name=AXIS), axis_name=AXIS)
        close(share(x.reshape(count, -1, 50)).reshape(8, 50), whole)  # the scaling may round


def test_dropout_is_off_in_evaluation_and_at_rate_zero(rng):
    x = rng.normal(size=(4, 5))
    np.testing.assert_array_equal(Dropout(0.5).apply({}, x, train=False), x)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, train=True), x)


@pytest.mark.parametrize("kept", ["float64", "bfloat16"])
def test_the_gradient_of_a_1x1_convolution(rng, kept):
    """Float64: every element, by a loop. Bfloat16: the types, and the values roughly."""
    x, matrix, dy = (rng.normal(size=shape) for shape in ((2, 3, 4, 5), (5, 6), (2, 3, 4, 6)))
    given = jnp.asarray(x, kept), jnp.asarray(matrix, kept)
    y, back = jax.vjp(layers.pointwise_conv, *given)
    by_x, by_matrix = back(jnp.asarray(dy, kept))
    assert {y.dtype, by_x.dtype, by_matrix.dtype} == {jnp.dtype(kept)}
    want_y, want_x, want_matrix = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(matrix.shape)
    for place in np.ndindex(2, 3, 4):
        for c, d in np.ndindex(5, 6):
            want_y[place][d] += x[place][c] * matrix[c, d]
            want_x[place][c] += dy[place][d] * matrix[c, d]
            want_matrix[c, d] += x[place][c] * dy[place][d]
    tolerance = 1e-10 if kept == "float64" else 0.2
    for got, want in (y, want_y), (by_x, want_x), (by_matrix, want_matrix):
        np.testing.assert_allclose(np.asarray(got, float), want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("mean", [0, 1e3, 1e5])
def test_moments_on_a_tpu_in_float32_with_a_guess_near_a_large_mean(rng, mean):
    """The running mean is the guess; it is off by two standard deviations here."""
    x = (rng.normal(size=(16, 8, 4, 6)) + mean).astype(np.float32)
    guess = np.full(6, mean - 2, np.float32)
    got_mean, got_var = layers._moments_on_tpu(jnp.asarray(x), guess)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(got_mean, exact.mean((0, 1, 2)), rtol=1e-6, atol=3e-6)
    # A float32 sum of 512 squares around 5 rounds by 2^-13 at its end. Without a guess every digit
    # of the variance would be lost at 1e5.
    np.testing.assert_allclose(got_var, exact.var((0, 1, 2)), rtol=3e-5)


@pytest.mark.parametrize("guess", [0.0, 1.0, -3.0])
def test_the_guess_of_the_mean_changes_no_result(rng, guess):
    x = rng.normal(size=(4, 3, 3, 5)) + 1
    for got, expected in zip(
        layers._moments_on_tpu(x, np.full(5, guess)), layers._moments(x), strict=True
    ):
        close(got, expected)
