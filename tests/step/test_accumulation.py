"""A batch in parts against the whole batch at once, in float64.

Without batch normalisation the results are the same for any number of parts and devices, including
augmentation and dropout. With batch normalisation, the oracle is one differentiable function: the
network on each part, then the loss of the whole batch.
"""

import functools
import os
import pathlib
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from support import fast_jit, toy_backbone
from support.fast_jit import jit
from support.paths import ROOT
from support.variants import few

from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.models import BATNet
from batnet_jax.models.layers import Dropout
from batnet_jax.runtime import devices
from batnet_jax.runtime.devices import AXIS
from batnet_jax.step import accumulation, augment, losses, train_step
from batnet_jax.training.run_length import check_batch
from batnet_jax.validation import validate

LABELS = np.repeat(np.arange(4), 4).astype(np.int32)
KEEP_GRADIENT = optax.GradientTransformation(
    init=lambda params: params, update=lambda gradients, _, __: (gradients, gradients)
)


class Small(nn.Module):
    """A network that counts its calls in place of batch normalisation."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, *, train):
        count = self.variable("batch_stats", "count", jnp.zeros, ())
        count.value += 1
        hidden = nn.relu(nn.Dense(16, dtype=jnp.float64)(images)).mean(1).reshape(len(images), -1)
        feature = nn.Dense(6, dtype=jnp.float64)(hidden)
        dropped = Dropout(0.5, self.axis_name)(feature, train=train)
        scores = nn.Dense(4, dtype=jnp.float64)(dropped)
        return {"features": {"appearance": feature}, "scores": {"appearance": scores}}


def make_step(model, accumulate, axis_name=None):
    config = default_config()
    config.batch.accumulate = accumulate
    recipe = train_step.make_recipe(
        config, num_identities=4, steps_per_epoch=1, axis_name=axis_name
    )
    recipe = recipe._replace(model=model, tx=KEEP_GRADIENT, erasing_start=0)
    return functools.partial(train_step.train_step, recipe=recipe)


def make_state(model, size):
    """Return float64 values that differ from those of the initialisation."""
    shapes = jax.eval_shape(
        functools.partial(model.clone(axis_name=None).init, train=False),
        jax.random.key(0),
        jax.ShapeDtypeStruct((2, *size, 3), jnp.float64),
    )
    rng = np.random.default_rng(0)
    values = jax.tree.map(lambda leaf: 0.5 + 0.3 * rng.normal(size=leaf.shape), shapes)
    params = values["params"]
    zero = np.zeros((), np.int32)
    return train_step.TrainState(zero, zero, params, values["batch_stats"], opt_state=params)


def make_batch(size):
    images = np.random.default_rng(1).integers(0, 256, (len(LABELS), *size, 3))
    return {"image": images.astype(np.uint8), "label": LABELS}


def take(model, accumulate, size, axis_name=None):
    """Return loss, gradients and new statistics of a step."""
    step, state, batch = make_step(model, accumulate, axis_name), make_state(model, size), None
    if axis_name:
        step = devices.parallel(step, in_axes=(None, 0), out_axes=(None, None))
        state, batch = devices.replicate(state), jax.tree.map(devices.split, make_batch(size))
    else:
        step, batch = jit(step), make_batch(size)
    state, metrics = step(state, batch)
    return jax.device_get((metrics, state.opt_state, state.batch_stats))


def close(got, expected, tolerance):
    """Compare relative to each leaf's largest value."""

    def compare(path, got, expected):
        error = np.abs(got - expected).max() / np.abs(expected).max()
        assert error < tolerance, f"{jax.tree_util.keystr(path)}: {error}"

    jax.tree_util.tree_map_with_path(compare, got, expected)


def test_rows_of_the_parts():
    rows = accumulation.split({"a": np.arange(6)}, 3)["a"]
    np.testing.assert_array_equal(rows, [[0, 3], [1, 4], [2, 5]])
    x = np.arange(24).reshape(6, 2, 2)
    np.testing.assert_array_equal(accumulation.join(accumulation.split(x, 2)), x)


@pytest.fixture(scope="module")
def whole():
    with jax.enable_x64(True):
        return take(Small(), 1, (16, 8))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("accumulate", few([2, 4, 16], keep=[1]))
def test_parts_change_nothing_without_batch_norm(whole, accumulate):
    metrics, gradients, stats = take(Small(), accumulate, (16, 8))
    # Augmentation in float32 rounds differently for another number of images, by about 1e-9.
    close((metrics, gradients), whole[:2], 1e-7)
    assert stats["count"] - whole[2]["count"] == pytest.approx(accumulate - 1)


@pytest.mark.usefixtures("float64")
def test_mining_within_the_parts_would_show(whole):
    """Each part has one image of each identity, so mining within it would find no positive."""
    features = np.random.default_rng(0).normal(size=(16, 6))
    labels = accumulation.split(LABELS, 4)
    assert all(len(set(part)) == 4 for part in labels.tolist())
    mine = functools.partial(losses.triplet_loss, margin=1.0, num_negatives=3)
    alone = [mine(x, y) for x, y in zip(accumulation.split(features, 4), labels, strict=True)]
    assert abs(np.mean(alone) - mine(features, LABELS)) > 0.1


@pytest.mark.usefixtures("float64")
def test_network_in_parts_equals_the_oracle(monkeypatch):
    monkeypatch.setattr(
        train_step.augment, "augment", lambda _, x, **__: augment.normalise(x, jnp.float64)
    )
    size = (32, 32)
    model = BATNet(
        4,
        num_parts=0,
        backbone="toy",
        width=1 / 16,
        embedding_dim=8,
        dropout=0.0,
        dtype=jnp.float64,
    )
    state, batch = make_state(model, size), make_batch(size)

    def oracle(params):
        stats, found = state.batch_stats, {}
        for part in range(2):
            outputs, updates = model.apply(
                {"params": params, "batch_stats": stats},
                augment.normalise(batch["image"][part::2], jnp.float64),
                train=True,
                mutable=["batch_stats"],
            )
            stats = updates["batch_stats"]
            for kind in ("features", "scores"):
                for stream, value in outputs[kind].items():
                    for place, row in zip(range(part, len(LABELS), 2), value, strict=True):
                        found.setdefault(kind, {}).setdefault(stream, {})[place] = row
        outputs = {
            kind: {
                s: jnp.stack([rows[i] for i in range(len(LABELS))]) for s, rows in streams.items()
            }
            for kind, streams in found.items()
        }
        loss, _ = losses.multi_task_loss(
            outputs, LABELS, margin=1.0, num_negatives=5, label_smoothing=0.1
        )
        return loss, stats

    (loss, stats), gradients = jit(jax.value_and_grad(oracle, has_aux=True))(state.params)
    got_metrics, got_gradients, got_stats = take(model, 2, size)
    assert got_metrics["loss"] == pytest.approx(float(loss), rel=1e-10)
    close(got_stats, stats, 1e-9)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))

    def compare(path, got, expected):
        # Before a batch normalisation the gradient of a bias is only rounding: hence the floor.
        bound = 1e-8 * np.abs(expected).max() + 1e-13 * largest
        assert np.abs(got - expected).max() < bound, jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(compare, got_gradients, gradients)


@pytest.mark.slow
def test_a_step_in_parts_takes_less_memory():
    size = (128, 64)
    step = make_step(Small(), 1), make_step(Small(), 4)
    with jax.enable_x64(True):
        arguments = make_state(Small(), (128, 64)), make_batch(size)
        whole, parts = (
            jit(s).lower(*arguments).compile().memory_analysis().temp_size_in_bytes for s in step
        )
    assert parts < whole / 2


def child(what, path):
    """Take a step on one device, and on two devices in two parts each; write both results."""
    assert jax.device_count() == 2
    toy_backbone.install()
    network = BATNet(
        4,
        num_parts=0,
        backbone="toy",
        width=1 / 16,
        embedding_dim=8,
        dropout=0.3,
        dtype=jnp.float64,
    )
    model, parts, size = {"small": (Small(), 1, (16, 8)), "network": (network, 2, (32, 32))}[what]
    results = take(model, parts, size), take(model.clone(axis_name=AXIS), 2, size, AXIS)
    pathlib.Path(path).write_bytes(pickle.dumps(results))


def run_child(what, path):
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {fast_jit.FLAGS}",
        "PYTHONPATH": os.pathsep.join(
            [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        ),
    }
    command = [sys.executable, "-W", "error", __file__, what, str(path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return pickle.loads(path.read_bytes())


def test_two_devices_in_parts_equal_the_whole_on_one(tmp_path):
    one, two = run_child("small", tmp_path / "results")
    close(two[:2], one[:2], 1e-7)


@pytest.mark.slow
def test_parts_of_a_network_do_not_depend_on_the_devices(tmp_path):
    """With synchronised batch normalisation, as part m has the same images on one device."""
    one, two = run_child("network", tmp_path / "results")
    close((two[0], two[2]), (one[0], one[2]), 1e-7)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(one[1]))
    for got, expected in zip(jax.tree.leaves(two[1]), jax.tree.leaves(one[1]), strict=True):
        assert np.abs(got - expected).max() < 1e-6 * np.abs(expected).max() + 1e-10 * largest


@pytest.mark.parametrize(
    ("parts", "words"),
    [(0, "must be above 0"), (3, "does not divide .* 16 x 4 = 64"), (128, "does not divide")],
)
def test_numbers_of_parts_that_are_refused(parts, words):
    config = default_config()
    config.batch.accumulate = parts
    with pytest.raises(UserError, match=rf"config\.batch\.accumulate={parts} {words}"):
        validate(config)


def test_a_device_whose_images_do_not_divide_into_the_parts(monkeypatch):
    config = default_config()
    config.batch.accumulate = 16
    check_batch(config)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(UserError, match=r"8 on each of 8 devices.*accumulate=16.*divisor of 8"):
        check_batch(config)


if __name__ == "__main__":
    child(*sys.argv[1:])
