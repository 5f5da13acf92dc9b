"""Max-pooling compared with its definition, on a CPU's path and on an accelerator's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import network_oracle

from batnet_jax.models import pooling
from batnet_jax.models.pooling import ceil_padding, max_pool

pytestmark = pytest.mark.usefixtures("float64")

SAME, NONE = ((1, 1), (1, 1)), ((0, 0), (0, 0))
FORMS = [  # stride, padding, window
    (1, SAME, 3),
    (1, NONE, 2),
    (2, SAME, 3),
    (2, NONE, 3),
    (2, ((0, 1), (0, 0)), 3),
    (2, ((0, 0), (0, 1)), 3),
    (2, NONE, 2),
    (2, ((1, 0), (0, 1)), 2),
]


def slow_size(size):
    """Leave a size to the slow tests: each is compiled separately."""
    return pytest.param(size, marks=pytest.mark.slow)


@pytest.fixture(params=["cpu", "tpu", "default"])
def platform(request, monkeypatch):
    """Pooling as on a CPU, on a TPU, and elsewhere."""

    def chosen(*args, **forms):
        return forms[request.param](*args)

    monkeypatch.setattr(pooling.lax, "platform_dependent", chosen)
    return request.param


def winners(image, stride, padding, window, by_row=False):
    """Yield (output, place of the maximum) of each window of [h, w]: first by column, then row.

    `by_row`: first by row, then by column.
    """
    ranges = [
        [
            [k for k in range(start, start + window) if 0 <= k < size]
            for start in range(-before, size + after - window + 1, stride)
        ]
        for size, (before, after) in zip(image.shape, padding, strict=True)
    ]
    for i, rows in enumerate(ranges[0]):
        for j, columns in enumerate(ranges[1]):
            places = [(r, c) for c in columns for r in rows]
            places = sorted(places) if by_row else places
            yield (i, j), max(places, key=lambda place: image[place])  # max takes the first


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize(
    "size", [slow_size((8, 6)), (7, 5), (3, 4), *map(slow_size, [(5, 8), (6, 7)])], ids=str
)
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (2, "ceil")])
def test_max_pool_equals_the_oracle(rng, size, stride, padding):
    x = np.maximum(rng.normal(size=(2, *size, 3)), 0)
    if padding == "ceil":
        pads = [ceil_padding(s) for s in size]
        expected = network_oracle.max_pool(x, stride=stride, padding=0, ceil=True)
    else:
        pads = [(padding, padding)] * 2
        expected = network_oracle.max_pool(x, stride=stride, padding=padding)
    got = max_pool(jnp.asarray(x), stride=stride, padding=pads)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.usefixtures("platform")
def test_ceil_mode_by_hand():
    # 5 rows: windows 0-2, 2-4. 6 rows: also 4-5, cut at the border.
    assert ceil_padding(5) == (0, 0)
    assert ceil_padding(6) == (0, 1)
    x = jnp.arange(6.0).reshape(1, 6, 1, 1) * jnp.ones((1, 1, 3, 1))
    pooled = max_pool(x, stride=2, padding=(ceil_padding(6), ceil_padding(3)))
    np.testing.assert_array_equal(pooled[0, :, 0, 0], [2, 4, 5])


@pytest.mark.parametrize("values", [100, 3], ids=["few ties", "ties"])
@pytest.mark.parametrize("size", [(7, 6), slow_size((8, 5))], ids=str)
@pytest.mark.parametrize(("stride", "padding", "window"), FORMS)
def test_values_and_gradients_by_the_definition(
    rng, platform, values, size, stride, padding, window
):
    x = rng.integers(1, 1 + values, size=(2, *size, 3)) * 1.0
    pool = partial(max_pool, stride=stride, padding=padding, window=window)
    got, transpose = jax.vjp(pool, jnp.asarray(x))
    weights = rng.normal(size=got.shape)
    expected, gradient = np.zeros(got.shape), np.zeros_like(x)
    for b, c in np.ndindex(2, 3):
        for output, place in winners(
            x[b, :, :, c], stride, padding, window, by_row=platform == "tpu"
        ):
            expected[b, *output, c] = x[b, *place, c]
            gradient[b, *place, c] += weights[b, *output, c]
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(transpose(jnp.asarray(weights))[0], gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_type_stays(rng, dtype):
    x = jnp.asarray(np.maximum(rng.normal(size=(1, 8, 4, 2)), 0), dtype)
    pooled, transpose = jax.vjp(partial(max_pool, stride=1, padding=SAME), x)
    assert pooled.dtype == transpose(pooled)[0].dtype == dtype


def test_on_a_cpu_pooling_is_not_fused_with_its_neighbours():
    def around(x):
        return jnp.exp(max_pool(2 * x, stride=1, padding=SAME)).sum()

    x = jnp.ones((2, 8, 4, 3))
    forward = jax.jit(around).lower(x).compile().as_text()
    assert forward.count("to_apply=%_window_max") == 1
    both = jax.jit(jax.grad(around)).lower(x).compile().as_text()
    assert (both.count("to_apply=%_window_argmax"), both.count("to_apply=%_scatter")) == (1, 1)
    for text in (forward, both):  # the functions inside it (where, pad, ...) are inlined
        assert text.count(" call(") == text.count("to_apply=%_")


def test_a_tpu_pools_by_its_own_window():
    """The views of other platforms take twice as many of its cycles."""
    pool = jax.jit(jax.grad(lambda x: max_pool(x, stride=2, padding=SAME).sum()))
    traced = pool.trace(jnp.ones((2, 8, 4, 3)))
    for platform, own in (("tpu", True), ("cuda", False), ("cpu", False)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("select_and_scatter" in text) == own
