"""A narrow network and files of its weights, for tests of imports and exports."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from batnet_jax.config import default_config
from batnet_jax.export.published import published_tensors
from batnet_jax.models.build import make_model
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.modes.import_weights import import_weights

SIZE = (64, 32)
IDENTITIES = 5


def make_config(**model):
    """Return the published network, narrow and with two parts."""
    config = default_config()
    config.data.image_size = SIZE
    small = {"width": 1 / 8, "num_parts": 2, "part_sampling": "published", "embedding_dim": 32}
    config.model.update(small | model)
    return config


def draw(config, seed=0):
    """Return random variables; no bias is 0 and no scale is 1."""
    model = make_model(config, IDENTITIES, axis_name=None)
    rng = np.random.default_rng(seed)

    def noise(leaf):
        return (leaf + 0.2 * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree.map(noise, draw_variables(model, SIZE, seed))


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def write(path, tensors):
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, path)
    return path


@pytest.fixture(scope="module")
def config():
    return make_config()


@pytest.fixture(scope="module")
def variables(config):
    return draw(config)


@pytest.fixture(scope="module")
def fresh(config):
    return draw(config, seed=1)


@pytest.fixture(scope="module")
def published(variables, tmp_path_factory):
    """A file of the variables under the published names, and its tensors; made without PyTorch."""
    path = tmp_path_factory.mktemp("published") / "batnet.safetensors"
    write(path, published_tensors(variables))
    return path, load_file(path)


@pytest.fixture(scope="module")
def imported(config, published, tmp_path_factory):
    """A workdir imported from the file with `module.` before each name, and the report."""
    folder = tmp_path_factory.mktemp("imported")
    counts = ("features.conv.conv1.1", "features.norm1_2")
    extra = {f"{name}.num_batches_tracked": np.asarray(7) for name in counts}
    tensors = {f"module.{name}": t for name, t in (published[1] | extra).items()}
    source = write(folder / "batnet.safetensors", tensors)
    return folder / "run", import_weights(config, source, folder / "run")
