"""ResNet-50's weights: imports, files that are refused, and the refused export."""

import jax
import numpy as np
import pytest
from support.tiny_resnet import SIZE, draw, make_config
from support.tiny_weights import write

import batnet_jax
from batnet_jax import weights
from batnet_jax.errors import UserError
from batnet_jax.export.published import to_published
from batnet_jax.models.build import make_model
from batnet_jax.modes.import_weights import import_weights
from batnet_jax.step.train_step import init_state, make_recipe
from batnet_jax.weights.convert import flatten, to_torch
from batnet_jax.weights.names import resnet_name
from batnet_jax.weights.sources import OtherNetworkError, check_agrees, open_source
from batnet_jax.workdir import checkpoints


def torchvisions():
    """Return a narrow network of ours under torchvision's names, made without PyTorch."""
    named = {
        resnet_name(path): to_torch(path, v) for path, v in flatten(draw(make_config())).items()
    }
    named.pop(None)
    return named | {"fc.weight": np.zeros((7, 128), np.float32), "fc.bias": np.zeros(7, np.float32)}


@pytest.fixture(scope="module")
def state():
    return torchvisions()


def test_parts_start_as_copies_and_import_makes_a_checkpoint(short_resnet, tmp_path):
    state = torchvisions()
    source = write(tmp_path / "resnet50.safetensors", state)
    config = make_config(num_parts=2, attention="aia")
    report = import_weights(config, source, tmp_path / "run")
    assert "2 ImageNet classifier" in report.summary()
    model = batnet_jax.load(tmp_path / "run")
    assert model.dim == (1 + 2) * 128
    recipe = make_recipe(config, num_identities=1, steps_per_epoch=1)
    params = checkpoints.restore_state(tmp_path / "run", 0, init_state(recipe, SIZE)).params
    streams = params["part_streams"]
    for stream, blocks in streams.items():
        jax.tree.map(np.testing.assert_array_equal, blocks, params[stream.split("_")[1]])
    assert set(streams) == {f"stream{t}_blk{n}" for t in (0, 1) for n in (3, 4)}
    kernel = params["blk1"]["unit0"]["conv2"]["conv"]["kernel"]
    np.testing.assert_array_equal(to_torch(("", "", ""), kernel), state["layer1.0.conv2.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer2.0.downsample.1.bias"), r"1 missing \(layer2.0.downsample.1.bias"),
        (  # ResNet-101 has a longer third stage
            lambda s: s.update({"layer3.6.conv1.weight": np.zeros((16, 64, 1, 1), np.float32)}),
            r"1 of unknown names \(layer3.6.conv1.weight\)",
        ),
        (  # ResNet-18 and -34 have no third convolution
            lambda s: [s.pop(name) for name in list(s) if "conv3" in name],
            "none of BAT-net, published backbone, torchvision googlenet, torchvision resnet50",
        ),
    ],
    ids=["missing", "deeper", "no bottlenecks"],
)
def test_other_networks_are_refused(state, tmp_path, change, message):
    tensors = dict(state)
    change(tensors)
    source = write(tmp_path / "other.safetensors", tensors)
    with pytest.raises(UserError, match=message):
        weights.initialise(make_config(), draw(make_config()), source)


@pytest.mark.parametrize(
    ("model", "found"),
    [({"backbone": "published"}, {"backbone": "resnet50"}), ({"width": 0.5}, {"width": 0.0625})],
    ids=str,
)
def test_the_attributes_of_another_network_are_named(state, tmp_path, model, found):
    config = make_config(**model)
    source = open_source(config, write(tmp_path / "resnet50.safetensors", state))
    with pytest.raises(OtherNetworkError) as caught:
        check_agrees(source, config.model, whole=False)
    assert caught.value.found == found
    ((name, value),) = found.items()
    assert str(caught.value).endswith(f"resnet50, has {name}={value}, not {model[name]}")


@pytest.mark.parametrize("model", [{}, {"backbone": "published"}], ids=["resnet", "neck"])
def test_a_network_that_the_published_code_lacks_is_not_exported(model):
    config = make_config(**model)
    with pytest.raises(UserError, match=r"^(backbone|neck)='\w+' has no published names, only '"):
        to_published(make_model(config, 5), draw(config))
