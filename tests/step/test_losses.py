"""Losses against loops and hand-worked numbers; in float64 they agree to 1e-10.

Sums are in another order. Distances are computed from |a|^2 + |b|^2 - 2ab; cancellation leaves an
error of 1e-16 |a|^2 / d, here 1e-12.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import training_oracle
from support.variants import few

from batnet_jax.runtime.devices import AXIS
from batnet_jax.step.losses import (
    LOSSES,
    circle_loss,
    cross_entropy,
    multi_task_loss,
    pairwise_distances,
    soft_triplet_loss,
    triplet_loss,
)

close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)


def batch(seed, *, identities=4, images=3, dim=5):
    rng = np.random.default_rng(seed)
    pids = rng.permutation(np.repeat(np.arange(identities) * 7, images)).astype(np.int32)
    return rng.normal(size=(len(pids), dim)), pids


# Anchors at 0, 1 (one person) and 3, 5 (another): distances to the positive 1, 1, 2, 2; to the
# negatives 3 5, 2 4, 2 3, 4 5.
LINE = np.array([[0.0], [1.0], [3.0], [5.0]], np.float32)
LINE_PIDS = np.array([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("margin", "num_negatives", "expected"),
    [
        (1.0, 1, (0 + 0 + 1 + 0) / 4),
        (1.0, 2, (0 + 0 + 0 + 0 + 1 + 0 + 0 + 0) / 8),
        (2.0, 1, (0 + 1 + 2 + 0) / 4),
        (2.0, 2, (0 + 0 + 1 + 0 + 2 + 1 + 0 + 0) / 8),
        (0.0, 1, 0.0),
    ],
)
def test_triplet_loss_by_hand(margin, num_negatives, expected):
    got = triplet_loss(LINE, LINE_PIDS, margin=margin, num_negatives=num_negatives)
    assert got.dtype == jnp.float32
    assert float(got) == expected  # small integers: exact


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("margin", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("num_negatives", [1, 2, 5])
def test_triplet_loss_equals_the_oracle(margin, num_negatives):
    loss = jax.jit(partial(triplet_loss, margin=margin, num_negatives=num_negatives))
    values = []
    for seed in range(5):
        features, pids = batch(seed)
        expected = training_oracle.triplet_loss(features, pids, margin, num_negatives)
        close(loss(features, pids), expected)
        values.append(expected)
    assert min(values) > 0


@pytest.mark.usefixtures("float64")
def test_one_negative_is_batch_hard():
    features, pids = batch(0)
    distances = np.sqrt(((features[:, None] - features[None]) ** 2).sum(-1))
    same = pids[:, None] == pids[None]
    hard = distances[same].reshape(12, 3).max(1) - distances[~same].reshape(12, 9).min(1)
    got = triplet_loss(features, pids, margin=0.5, num_negatives=1)
    close(got, np.maximum(hard + 0.5, 0).mean())


def test_triplet_loss_in_float32_at_the_features_real_size():
    # 512 values after BN and ReLU have a length of about 16. So |a|^2 = 256 is accurate to 3e-5,
    # distances (about 16 too) to about 1e-6, and the mean of 24 x 5 hinges of about 1 to 1e-5.
    rng = np.random.default_rng(0)
    features = np.maximum(rng.normal(size=(24, 512)), 0).astype(np.float32)
    pids = np.arange(24) % 6
    got = triplet_loss(features, pids, margin=1.0, num_negatives=5)
    expected = training_oracle.triplet_loss(features.astype(np.float64), pids, 1.0, 5)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.usefixtures("float64")
def test_triplet_gradient_against_differences():
    features, pids = batch(1)
    loss = partial(triplet_loss, pids=pids, margin=1.0, num_negatives=3)
    gradient = jax.jit(jax.grad(loss))(features)
    step = 1e-6
    expected = np.zeros_like(features)
    for index in np.ndindex(*features.shape):
        moved = [features.copy(), features.copy()]
        moved[0][index] += step
        moved[1][index] -= step
        high, low = (training_oracle.triplet_loss(f, pids, 1.0, 3) for f in moved)
        expected[index] = (high - low) / (2 * step)
    # Finite differences have errors of 1e-16 / step (rounding) and step^2 (curvature).
    np.testing.assert_allclose(gradient, expected, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_gradient_is_finite_where_features_coincide(dtype, margin):
    with jax.enable_x64(dtype == np.float64):
        features, pids = batch(2)
        features = features.astype(dtype)
        same = np.flatnonzero(pids == pids[0])
        other = np.flatnonzero(pids != pids[0])
        features[same[1]] = features[same[0]]  # two images of one person
        features[other[0]] = features[same[0]]  # and an image of another person
        loss_and_gradient = jax.jit(
            jax.value_and_grad(partial(triplet_loss, margin=margin, num_negatives=5))
        )
        assert np.isfinite(loss_and_gradient(features, pids)[1]).all()
        collapsed = np.ones_like(features)
        loss, gradient = loss_and_gradient(collapsed, pids)
        np.testing.assert_array_equal(loss, margin)  # every distance is 0
        np.testing.assert_array_equal(gradient, np.zeros_like(features))


@pytest.mark.usefixtures("float64")
def test_pairwise_distances():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    expected = [[np.linalg.norm(x - y) for y in b] for x in a]
    close(pairwise_distances(a, b), expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("devices", few([2, 4], keep=[1]))
def test_mining_sees_the_whole_batch(devices):
    features, pids = batch(3)
    options = {"margin": 1.0, "num_negatives": 1}
    loss = partial(triplet_loss, pids=pids, **options)
    whole, gradient = jax.jit(jax.value_and_grad(loss))(features)

    def device(features, pids, axis_name):
        loss = partial(triplet_loss, pids=pids, axis_name=axis_name, **options)
        return jax.value_and_grad(loss)(features)

    split = [a.reshape(devices, -1, *a.shape[1:]) for a in (features, pids)]
    shared = jax.jit(jax.vmap(partial(device, axis_name=AXIS), axis_name=AXIS))
    losses, gradients = shared(*split)
    close(losses.mean(), whole)
    close(gradients.reshape(features.shape) / devices, gradient)
    alone, _ = jax.jit(jax.vmap(partial(device, axis_name=None)))(*split)
    assert abs(alone.mean() - whole) > 0.1


def test_cross_entropy_by_hand():
    # Softmax (3/4, 1/4): 0.8 log(4/3) + 0.2 log 4 with a smoothing of 0.4 over two classes.
    scores = np.log(np.array([[3.0, 1.0]]), dtype=np.float32)
    got = cross_entropy(scores, np.array([0]), smoothing=0.4)
    np.testing.assert_allclose(got, 0.8 * np.log(4 / 3) + 0.2 * np.log(4), rtol=1e-6)
    got = cross_entropy(scores, np.array([1]))
    np.testing.assert_allclose(got, np.log(4), rtol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_equals_the_oracle(smoothing):
    rng = np.random.default_rng(0)
    scores, labels = 20 * rng.normal(size=(6, 9)), rng.integers(0, 9, 6)
    got = cross_entropy(scores, labels, smoothing=smoothing)
    close(got, training_oracle.cross_entropy(scores, labels, smoothing))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("streams", [("appearance", "part"), ("appearance",)], ids=str)
def test_multi_task_loss_is_the_average_over_the_streams(streams):
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 4
    outputs = {
        "features": {s: rng.normal(size=(12, 5)) for s in streams},
        "scores": {s: rng.normal(size=(12, 4)) for s in streams},
    }
    loss, parts = multi_task_loss(outputs, labels, margin=0.7, num_negatives=3, label_smoothing=0.1)
    features, scores = outputs["features"], outputs["scores"]
    triplets = [training_oracle.triplet_loss(features[s], labels, 0.7, 3) for s in streams]
    entropies = [training_oracle.cross_entropy(scores[s], labels, 0.1) for s in streams]
    assert set(parts) == {"loss_ce", "loss_triplet"}
    close(parts["loss_triplet"], np.mean(triplets))
    close(parts["loss_ce"], np.mean(entropies))
    close(loss, np.mean(triplets) + np.mean(entropies))


# The ranking losses that are not the paper's.


def soft_triplet_oracle(features, pids, num_negatives):
    """By loops: log(1 + exp(farthest positive - negative)) over the nearest negatives."""
    values = []
    for i, pid in enumerate(pids):
        distances = np.sqrt(((features - features[i]) ** 2).sum(1))
        farthest = distances[pids == pid].max()
        nearest = np.sort(distances[pids != pid])[:num_negatives]
        values += [np.log1p(np.exp(farthest - distance)) for distance in nearest]
    return np.mean(values)


def circle_oracle(features, pids, margin, weights_of=None):
    """Sun et al., Eq. 6, by loops; the weights may be those of other features."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    fixed = unit if weights_of is None else weights_of / np.linalg.norm(weights_of, axis=1)[:, None]
    values = []
    for i, pid in enumerate(pids):
        positive = negative = 0.0
        for j, other in enumerate(pids):
            cosine, weight = unit[i] @ unit[j], fixed[i] @ fixed[j]
            if i == j:
                continue
            if pid == other:
                alpha = max(0.0, 1 + margin - weight)
                positive += np.exp(-128 * alpha * (cosine - (1 - margin)))
            else:
                alpha = max(0.0, weight + margin)
                negative += np.exp(128 * alpha * (cosine - margin))
        values.append(np.log1p(negative * positive))
    return np.mean(values)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("num_negatives", [1, 5])
def test_soft_triplet_loss_equals_the_oracle(num_negatives):
    features, pids = batch(0)
    loss = partial(soft_triplet_loss, pids=pids, margin=0.3, num_negatives=num_negatives)
    close(loss(features), soft_triplet_oracle(features, pids, num_negatives))
    check_gradient(loss, lambda f: soft_triplet_oracle(f, pids, num_negatives), features)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("margin", [0.0, 0.25])
def test_circle_loss_equals_the_oracle(margin):
    features, pids = batch(1)
    loss = partial(circle_loss, pids=pids, margin=margin, num_negatives=3)
    close(loss(features), circle_oracle(features, pids, margin))
    check_gradient(loss, lambda f: circle_oracle(f, pids, margin, features), features)


def check_gradient(loss, oracle, features):
    gradient = jax.jit(jax.grad(loss))(features)
    step, expected = 1e-6, np.zeros_like(features)
    for index in np.ndindex(*features.shape):
        moved = [features.copy(), features.copy()]
        moved[0][index] += step
        moved[1][index] -= step
        expected[index] = (oracle(moved[0]) - oracle(moved[1])) / (2 * step)
    # Finite differences have errors of 1e-16 / step times the value, up to 100 for the circle loss.
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("ranking", [soft_triplet_loss, circle_loss])
def test_other_ranking_losses_are_of_the_global_batch(ranking):
    """The mean over four devices is the loss of all images on one."""
    features, pids = batch(3, identities=4, images=4)
    features = features.astype(np.float32)
    loss = partial(ranking, margin=0.25, num_negatives=2)
    split = [x.reshape(4, 4, *x.shape[1:]) for x in (features, pids)]
    parts = jax.jit(jax.vmap(partial(loss, axis_name=AXIS), axis_name=AXIS))(*split)
    np.testing.assert_allclose(parts.mean(), jax.jit(loss)(features, pids), rtol=1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "ranking", "part"),
    [("soft_triplet", soft_triplet_loss, "loss_triplet"), ("circle", circle_loss, "loss_circle")],
)
def test_a_loss_by_name_adds_the_cross_entropy(name, ranking, part):
    features, labels = batch(4)
    labels = labels // 7
    scores = np.random.default_rng(5).normal(size=(len(labels), 4))
    outputs = {"features": {"appearance": features}, "scores": {"appearance": scores}}
    options = {"margin": 0.25, "num_negatives": 2}
    total, parts = LOSSES[name](outputs, labels, label_smoothing=0.1, **options)
    assert set(parts) == {"loss_ce", part}
    np.testing.assert_allclose(parts[part], ranking(features, labels, **options), rtol=1e-6)
    wanted = cross_entropy(scores, labels, smoothing=0.1)
    np.testing.assert_allclose(parts["loss_ce"], wanted, rtol=1e-6)
    np.testing.assert_allclose(total, parts["loss_ce"] + parts[part], rtol=1e-6)


def test_circle_loss_is_finite_where_features_vanish():
    features, pids = batch(6)
    features = features.astype(np.float32)
    features[0] = 0
    gradient = jax.grad(partial(circle_loss, pids=pids, margin=0.25, num_negatives=1))(features)
    assert np.isfinite(gradient).all()
