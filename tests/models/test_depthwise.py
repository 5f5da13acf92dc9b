"""The depthwise convolution on a CPU equals XLA's, and so do its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batnet_jax.models.depthwise import DepthwiseConv, depthwise_conv, xla_depthwise_conv
from batnet_jax.models.osnet import halve


def arrays(shape, dtype=np.float64):
    rng = np.random.default_rng(sum(shape))
    x, weights = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    return x, rng.standard_normal((3, 3, 1, shape[-1])).astype(dtype), weights


def plain(x, kernel):
    """Return the convolution of [b, h, w, c] by its definition, pixel by pixel."""
    _, height, width, _ = x.shape
    y = np.zeros_like(x)
    for row in range(height):
        for column in range(width):
            for i in range(3):
                for j in range(3):
                    above, left = row + i - 1, column + j - 1
                    if 0 <= above < height and 0 <= left < width:
                        y[:, row, column] += x[:, above, left] * kernel[i, j, 0]
    return y


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 1, 1, 1), (3, 7, 2, 5), (2, 6, 1, 4)], ids=str)
def test_it_equals_the_definition_and_xlas_gradients(shape):
    x, kernel, weights = arrays(shape)
    np.testing.assert_allclose(depthwise_conv(x, kernel), plain(x, kernel), atol=1e-12)

    def gradients(convolve):
        return jax.grad(lambda x, k: (convolve(x, k) * weights).sum(), (0, 1))(x, kernel)

    for own, xlas in zip(gradients(depthwise_conv), gradients(xla_depthwise_conv), strict=True):
        np.testing.assert_allclose(own, xlas, atol=1e-12)


@settings(max_examples=5, deadline=None)
@given(st.tuples(*(st.integers(1, most) for most in (3, 9, 9, 4))))
def test_any_shape_has_the_gradient_of_its_differences(shape):
    """The function is linear in each argument: the gradient gives the change exactly."""
    with jax.enable_x64(True):
        x, kernel, weights = arrays(shape)
        by_map, by_kernel = jax.grad(lambda x, k: (depthwise_conv(x, k) * weights).sum(), (0, 1))(
            x, kernel
        )
        y = (plain(x, kernel) * weights).sum()
        np.testing.assert_allclose((by_map * x).sum(), y, atol=1e-9)
        np.testing.assert_allclose((by_kernel * kernel).sum(), y, atol=1e-9)


def test_bfloat16_keeps_its_type_and_sums_the_kernels_gradient_in_float32():
    x, kernel, _ = arrays((2, 64, 32, 4), np.float32)
    layer = DepthwiseConv(jax.nn.initializers.ones, jnp.bfloat16)
    assert layer.apply({"params": {"kernel": kernel}}, x).dtype == jnp.bfloat16
    ones = jnp.ones((2, 64, 32, 4), jnp.bfloat16)
    gradient = jax.grad(lambda k: depthwise_conv(ones, k).astype(jnp.float32).sum())
    # bfloat16 would stop to count at 256.
    counts = gradient(jnp.asarray(kernel, jnp.bfloat16))
    np.testing.assert_allclose(counts[1, 1, 0], np.full(4, 2 * 64 * 32.0))


def test_halving_leaves_out_an_odd_row_and_column():
    x = np.random.default_rng(0).standard_normal((2, 5, 3, 4)).astype(np.float32)
    expected = (x[:, :4:2, :2:2] + x[:, 1:4:2, :2:2] + x[:, :4:2, 1:2:2] + x[:, 1:4:2, 1:2:2]) / 4
    np.testing.assert_allclose(halve(jnp.asarray(x)), expected, atol=1e-6)
