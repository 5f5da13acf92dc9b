"""A step on one device against eight, two and four fake ones, in another process, in float64.

The step and the network are the real ones, with synchronised BN, dropout, flips, crops and erasing.
The backbone has a layer a block to save compile time. Image i has identity i mod 4, and
eight devices hold two images each: each identity is spread over four devices and no device holds a
positive, so mining must use the global batch.
"""

import functools
import os
import pathlib
import pickle
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec
from support import fast_jit, toy_backbone
from support.paths import ROOT

from batnet_jax.config import default_config
from batnet_jax.models import BATNet
from batnet_jax.runtime import devices
from batnet_jax.runtime.devices import AXIS
from batnet_jax.step import losses
from batnet_jax.step.packing import pack_state, unpack_state
from batnet_jax.step.train_step import init_state, make_recipe, train_step

DEVICES = 8
IMAGE_SIZE = (64, 32)
LABELS = (np.arange(2 * DEVICES) % 4).astype(np.int32)

# The gradient itself becomes the optimizer's state: nothing needs to be inferred from an update.
KEEP_GRADIENT = optax.GradientTransformation(
    init=lambda params: params, update=lambda gradients, _, __: (gradients, gradients)
)


def take_step(axis_name, *, sync_batch_norm=True, way="parallel"):
    """Return loss, gradients and new statistics of one step on 16 images.

    `way`: `devices.parallel`, as the loop does, or "shard_map" under jit, which takes its place on
    the day when JAX drops pmap.
    """
    model = BATNet(
        4,
        backbone="toy",
        num_parts=1,
        width=1 / 8,
        embedding_dim=32,
        dropout=0.3,
        sync_batch_norm=sync_batch_norm,
        axis_name=axis_name,
        dtype=jax.numpy.float64,
    )
    config = default_config()
    recipe = make_recipe(config, num_identities=4, steps_per_epoch=1, axis_name=axis_name)
    recipe = recipe._replace(model=model, tx=KEEP_GRADIENT, erasing_start=0)
    state = jax.tree.map(
        lambda leaf: leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf,
        init_state(recipe, IMAGE_SIZE),
    )
    images = np.random.default_rng(0).integers(0, 256, (len(LABELS), *IMAGE_SIZE, 3))
    batch = {"image": images.astype(np.uint8), "label": LABELS}
    step = functools.partial(train_step, recipe=recipe)
    if way == "shard_map":
        mesh = Mesh(np.array(jax.devices()), (axis_name,))
        specs = PartitionSpec(), PartitionSpec(axis_name)
        step = jax.shard_map(
            step, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
        )
        step, state = jax.jit(step), pack_state(state)
    elif axis_name:
        step = devices.parallel(step, in_axes=(None, 0), out_axes=(None, None))
        state = devices.replicate(pack_state(state))  # as `loop.start_run` has it
        batch = jax.tree.map(devices.split, batch)
    else:
        step = jax.jit(step)
    state, metrics = step(state, batch)
    state = unpack_state(jax.device_get(state))
    return {"metrics": metrics, "gradients": state.opt_state, "stats": state.batch_stats}


def mine(axis_name):
    """Return the triplet loss under pmap, with the candidates of all devices or of each alone."""
    features = np.random.default_rng(0).normal(size=(len(LABELS), 6))
    loss = functools.partial(losses.triplet_loss, margin=1.0, num_negatives=1, axis_name=axis_name)
    mapped = devices.parallel(loss, in_axes=(0, 0))
    return mapped(devices.split(features), devices.split(LABELS)).mean()


RESULTS = {
    "one": lambda: take_step(None),
    "many": lambda: take_step(AXIS),
    "shard_map": lambda: take_step(AXIS, way="shard_map"),
    "not synchronised": lambda: take_step(AXIS, sync_batch_norm=False),
    "mined over all": lambda: mine(AXIS),
    "mined alone": lambda: mine(None),
}
DEFAULT = ("one", "many", "mined over all", "mined alone")
FURTHER = ("one", "many", "shard_map", "not synchronised")


def child(path, *names):
    toy_backbone.install()
    results = {name: RESULTS[name]() for name in names}
    pathlib.Path(path).write_bytes(pickle.dumps(jax.device_get(results)))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return compute(tmp_path_factory.mktemp("devices") / "results.pickle", DEVICES, *DEFAULT)


@pytest.fixture(scope="module")
def further(tmp_path_factory):
    """More results, of slow tests: each is a step to compile."""
    return compute(tmp_path_factory.mktemp("further") / "results.pickle", DEVICES, *FURTHER)


def compute(path, count, *names):
    """Return some results of a process with `count` devices."""
    # Without optimisation the compiler takes a third of the time.
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count} {fast_jit.FLAGS}",
        "PYTHONPATH": os.pathsep.join(
            [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        ),
    }
    command = [sys.executable, "-W", "error", __file__, str(path), *names]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return pickle.loads(path.read_bytes())


def assert_same(got, expected, rtol):
    """Compare relative to each array's largest value; a bias before BN has a gradient of 0."""
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))

    def check(path, a, b):
        name = jax.tree_util.keystr(path)
        floor = 1e-8 * scale
        np.testing.assert_allclose(
            a, b, rtol=0, atol=rtol * np.abs(b).max() + rtol * floor, err_msg=name
        )

    jax.tree_util.tree_map_with_path(check, got, expected)


# Augmented images are float32, and two programs may round them apart by 1e-7, which derivatives
# through batch normalisations enlarge: hence 1e-4. Measured where they round alike: 1e-10.


@pytest.mark.slow
def test_jit_and_shard_map_take_the_same_step(further):
    """So the day when JAX drops pmap changes `runtime/devices.py` and no number."""
    assert_same(further["shard_map"], further["many"], rtol=1e-4)


def test_pmap_is_named_in_one_module():
    """Calls alone: documents and docstrings may speak of it."""
    files = [*(ROOT / "batnet_jax").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    assert [path.name for path in files if "jax.pmap(" in path.read_text()] == ["devices.py"]


def test_loss(results):
    for name in ("loss", "loss_ce", "loss_triplet"):
        one, many = (results[key]["metrics"][name] for key in ("one", "many"))
        assert many == pytest.approx(one, rel=1e-6)
        assert one > 0


def test_every_gradient(results):
    gradients = results["one"]["gradients"]
    norms = [np.abs(leaf).max() for leaf in jax.tree.leaves(gradients)]
    assert sum(norm > 1e-6 for norm in norms) > len(norms) / 2
    assert_same(results["many"]["gradients"], gradients, rtol=1e-4)


def test_running_statistics(results):
    assert_same(results["many"]["stats"], results["one"]["stats"], rtol=1e-6)


@pytest.mark.slow
def test_without_synchronised_batch_norm_the_results_differ(further):
    one, apart = further["one"], further["not synchronised"]
    assert abs(one["metrics"]["loss"] - apart["metrics"]["loss"]) > 1e-2
    with pytest.raises(AssertionError):
        assert_same(apart["gradients"], one["gradients"], rtol=0.1)
    with pytest.raises(AssertionError):
        assert_same(apart["stats"], one["stats"], rtol=0.01)


def test_mining_sees_the_global_batch(results):
    assert abs(results["mined over all"] - results["mined alone"]) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_two_and_four(tmp_path, count):
    found = compute(tmp_path / "results.pickle", count, "one", "many")
    test_loss(found)
    test_every_gradient(found)
    test_running_statistics(found)


if __name__ == "__main__":
    child(*sys.argv[1:])
