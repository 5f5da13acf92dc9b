"""The oracle of the network against loops, and its gradients against central differences.

autograd's own gradients are not tested again. The differences are of functions near 1 with a step
of 1e-6: rounding leaves 1e-10, curvature 1e-12.
"""

import numpy as np
import pytest
from autograd import grad
from autograd import numpy as anp
from support import network_oracle, training_oracle


def normal(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape)


def positive(*shape):
    return np.random.default_rng(len(shape)).uniform(0.5, 2, shape)


def test_convolution_is_a_loop():
    x, kernel = normal(2, 5, 4, 2), normal(3, 3, 2, 3)
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    expected = np.zeros((2, 3, 2, 3))
    for b, i, j, d in np.ndindex(*expected.shape):
        window = padded[b, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        expected[b, i, j, d] = (window * kernel[..., d]).sum()
    got = network_oracle.conv2d(x, kernel, padding=1, stride=2)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_max_pooling_is_a_loop_and_ignores_the_border():
    x = normal(2, 6, 5, 2) - 9  # all negative, so that zeros would show
    expected = np.zeros((2, 3, 3, 2))
    for b, i, j, c in np.ndindex(*expected.shape):
        rows, columns = (range(max(2 * k - 1, 0), 2 * k + 2) for k in (i, j))
        inside = [(r, s) for r in rows for s in columns if r < 6 and s < 5]
        expected[b, i, j, c] = max(x[b, r, s, c] for r, s in inside)
    np.testing.assert_array_equal(network_oracle.max_pool(x, stride=2, padding=1), expected)


def assert_gradients_are_differences(loss, arrays, step=1e-6):
    gradients = grad(lambda arrays: loss(*arrays))(arrays)
    for number, (array, got) in enumerate(zip(arrays, gradients, strict=True)):
        expected = np.zeros(array.shape)
        for index in np.ndindex(*array.shape):
            ends = []
            for moved in (step, -step):
                changed = [a.copy() for a in arrays]
                changed[number][index] += moved
                ends.append(loss(*changed))
            expected[index] = (ends[0] - ends[1]) / (2 * step)
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradient_of_a_convolution_and_a_pooling(stride):
    weights = normal(2, 3, 2, 3) if stride == 2 else normal(2, 5, 4, 3)

    def loss(x, kernel):
        y = network_oracle.conv2d(x, kernel, padding=1, stride=stride)
        return (network_oracle.max_pool(y, stride=1, padding=1) * weights).sum()

    assert_gradients_are_differences(loss, [normal(2, 5, 4, 2), positive(3, 3, 2, 3)])


@pytest.mark.parametrize("train", [True, False])
def test_gradient_of_batch_norm(train):
    stats = {"mean": normal(2), "var": positive(2)}
    weights = normal(4, 1, 3, 2)

    def loss(x, scale, bias):
        params = {"scale": scale, "bias": bias}
        y, _ = network_oracle.batch_norm(x, params, stats, train)
        return (anp.exp(y) * weights).sum()

    assert_gradients_are_differences(loss, [normal(4, 1, 3, 2), positive(2), normal(2)])


def test_gradient_of_the_losses():
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

    features, scores = [normal(6, 4), positive(6, 3)], [3 * normal(6, 3), positive(6, 3)]
    assert_gradients_are_differences(loss, [*features, *scores])
