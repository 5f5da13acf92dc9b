"""The tape's operations against central differences, and their values against loops.

Differences of functions near 1 with a step of 1e-6: rounding leaves 1e-10, curvature 1e-12.
"""

import numpy as np
import pytest
from support import network_oracle, tape, training_oracle


def normal(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape)


def positive(*shape):
    return np.random.default_rng(len(shape)).uniform(0.5, 2, shape)


POOL = {"side": 3, "pads": [(1, 0), (1, 1)], "stride": 2}
CONV = {"pads": [(1, 1), (1, 0)], "stride": 2}
REPEATED = np.array([2, 0, 2])  # the gradients of both add up
OPERATIONS = {
    "add": (lambda a, b: a + b, normal(3, 2), positive(3, 2)),
    "add, repeated": (lambda a, b: a + b, normal(3, 2), positive(4, 1, 2)),
    "add, constant": (lambda a: np.ones((2, 1)) + a + 1, normal(3)),
    "subtract": (lambda a, b: a - b, normal(3, 2), positive(2)),
    "subtract from": (lambda a: 2 - a, normal(3)),
    "multiply": (lambda a, b: a * b, normal(3, 2), positive(4, 1, 2)),
    "multiply by itself": (lambda a: a * a, normal(3)),
    "divide": (lambda a, b: a / b, normal(3, 1), positive(2, 3, 2)),
    "divide a constant": (lambda a: np.arange(3) / a, positive(3)),
    "matmul": (lambda a, b: a @ b, normal(3, 2), positive(2, 4)),
    "slice": (lambda a: a[:, 1:, None], normal(3, 4)),
    "index": (lambda a: a[..., REPEATED, np.arange(3)], normal(2, 3, 3)),
    "reshape": (lambda a: a.reshape(3, 2), normal(2, 3)),
    "sum": (lambda a: a.sum((0, 2)), normal(2, 3, 2)),
    "sum of all": (lambda a: a.sum(), normal(2, 3)),
    "mean": (lambda a: a.mean((1,)), normal(2, 3, 2)),
    "exp": (tape.exp, normal(3)),
    "log": (tape.log, positive(3)),
    "sqrt": (tape.sqrt, positive(3)),
    "relu": (tape.relu, normal(5, 2)),
    "concatenate": (lambda a, b: tape.concatenate([a, b, a], 1), normal(2, 3), positive(2, 1)),
    "conv2d": (lambda a, k: tape.conv2d(a, k, **CONV), normal(2, 5, 4, 2), positive(3, 3, 2, 3)),
    "max_pool2d": (lambda a: tape.max_pool2d(a, **POOL), normal(2, 6, 5, 2)),
}


def differences(function, arrays, step=1e-6):
    gradients = [np.zeros(array.shape) for array in arrays]
    for array, gradient in zip(arrays, gradients, strict=True):
        for index in np.ndindex(*array.shape):
            value = array[index]
            ends = []
            for array[index] in (value + step, value - step):
                ends.append(float(function(*arrays)))
            array[index] = value
            gradient[index] = (ends[0] - ends[1]) / (2 * step)
    return gradients


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_of_operations(name):
    operation, *arrays = OPERATIONS[name]
    weights = normal(*operation(*map(tape.tensor, arrays)).shape)

    def loss(*inputs):
        return (operation(*map(tape.tensor, inputs)) * weights).sum()

    leaves = [tape.Tensor(array) for array in arrays]
    loss(*leaves).backward()
    for leaf, expected in zip(leaves, differences(loss, arrays), strict=True):
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(leaf.grad, expected, rtol=1e-7, atol=1e-8)


def test_convolution_is_a_loop():
    x, kernel = normal(2, 5, 4, 2), normal(3, 3, 2, 3)
    padded = np.pad(x, [(0, 0), *CONV["pads"], (0, 0)])
    expected = np.zeros((2, 3, 2, 3))
    for b, i, j, d in np.ndindex(*expected.shape):
        window = padded[b, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        expected[b, i, j, d] = (window * kernel[..., d]).sum()
    got = tape.conv2d(tape.tensor(x), tape.tensor(kernel), **CONV)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_max_pooling_is_a_loop_and_ignores_the_border():
    x = normal(2, 6, 5, 2) - 9  # all negative, so that zeros would show
    expected = np.zeros((2, 3, 3, 2))
    for b, i, j, c in np.ndindex(*expected.shape):
        rows, columns = (range(max(2 * k - 1, 0), 2 * k + 2) for k in (i, j))
        inside = [(r, s) for r in rows for s in columns if r < 6 and s < 5]
        expected[b, i, j, c] = max(x[b, r, s, c] for r, s in inside)
    np.testing.assert_array_equal(tape.max_pool2d(tape.tensor(x), **POOL), expected)


def test_the_gradient_of_a_tie_goes_to_the_first():
    x = tape.Tensor(np.array([[0.0, 2.0, 1.0], [2.0, 2.0, 0.0], [0.0, 2.0, 0.0]])[None, :, :, None])
    tape.max_pool2d(x, side=3, pads=[(0, 0), (0, 0)], stride=1).sum().backward()
    np.testing.assert_array_equal(x.grad[0, :, :, 0], [[0, 1, 0], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize("train", [True, False])
def test_gradient_of_batch_norm(train):
    stats = {"mean": normal(2), "var": positive(2)}
    weights = normal(4, 1, 3, 2)

    def loss(x, scale, bias):
        params = {"scale": scale, "bias": bias}
        y, _ = network_oracle.batch_norm(x, params, stats, train)
        return (tape.exp(y) * weights).sum()

    arrays = [normal(4, 1, 3, 2), positive(2), normal(2)]
    leaves = [tape.Tensor(array) for array in arrays]
    loss(*leaves).backward()
    for leaf, expected in zip(leaves, differences(loss, arrays), strict=True):
        np.testing.assert_allclose(leaf.grad, expected, rtol=1e-7, atol=1e-7)


def test_gradient_of_the_losses():
    features = {"one": normal(6, 4), "two": positive(6, 3)}
    scores = {"one": 3 * normal(6, 3), "two": positive(6, 3)}
    labels = np.array([0, 1, 2, 0, 1, 2])

    def loss(*arrays):
        one, two, three, four = arrays
        return training_oracle.multi_task_loss(
            {"one": one, "two": two},
            {"one": three, "two": four},
            labels,
            margin=0.5,
            num_negatives=2,
            smoothing=0.1,
        )

    arrays = [*features.values(), *scores.values()]
    leaves = [tape.Tensor(array) for array in arrays]
    loss(*leaves).backward()
    for leaf, expected in zip(leaves, differences(loss, arrays), strict=True):
        np.testing.assert_allclose(leaf.grad, expected, rtol=1e-7, atol=1e-8)
