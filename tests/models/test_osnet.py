"""OSNet: counts, names, features, statistics and gradients compared with PyTorch's."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from support import needs
from support.fast_jit import jit
from support.networks import shapes_of
from support.tiny_osnet import HEAD, KINDS, SIZE, draw, make_config
from support.torch_networks import settle

from batnet_jax import weights
from batnet_jax.models import BACKBONES, BATNet, osnet
from batnet_jax.models.build import make_model
from batnet_jax.models.instance_norm import InstanceNorm
from batnet_jax.weights.convert import flatten, from_torch, to_torch, torch_shape
from batnet_jax.weights.names import NAMES, OSNET, OSNET_AIN, OSNET_IBN, canonical

FORMATS = {"plain": OSNET, "ibn": OSNET_IBN, "ain": OSNET_AIN}
# Parameters without the classifier. The first five are those that the authors' program counts.
COUNTS = {
    "osnet_x1_0": 2_169_508,
    "osnet_x0_75": 1_285_754,
    "osnet_x0_5": 630_034,
    "osnet_x0_25": 201_864,
    "osnet_ibn_x1_0": 2_170_532,  # two instance normalisations of 256 channels more
    "osnet_ain_x1_0": 2_169_508,  # each instance normalisation takes a batch normalisation's place
    "osnet_ain_x0_75": 1_285_754,
    "osnet_ain_x0_5": 630_034,
    "osnet_ain_x0_25": 201_864,
}


def kind_of(backbone):
    return next((kind for kind in ("ibn", "ain") if kind in backbone), "plain")


@functools.cache
def shapes(backbone):
    return shapes_of(BATNet(7, backbone=backbone, **HEAD), (2, *SIZE, 3))


@pytest.mark.parametrize(("backbone", "count"), COUNTS.items())
def test_parameter_counts(backbone, count):
    params = shapes(backbone)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) - 7 * 513 == count


def test_every_backbone_is_counted():
    assert COUNTS.keys() == osnet.BACKBONES.keys()


def test_shapes_at_every_position_and_of_the_streams(monkeypatch):
    monkeypatch.setattr(osnet, "STREAMS", 1)
    options = {**HEAD, "attention": "plain", "position": "p1,p2,p3,p4", "num_parts": 4}
    model = BATNet(5, backbone="osnet_x1_0", **options)
    variables = shapes_of(model, (2, 256, 128, 3))
    images = jax.ShapeDtypeStruct((2, 256, 128, 3), jnp.float32)
    outputs = jax.eval_shape(model.apply, variables, images)
    assert {position: maps["mask"].shape for position, maps in outputs["attention"].items()} == {
        "p1": (2, 64, 32, 64), "p2": (2, 32, 16, 256), "p3": (2, 16, 8, 384), "p4": (2, 16, 8, 512)
    }  # fmt: skip
    assert {f.shape for f in outputs["features"].values()} == {(2, 512)}
    streams = variables["params"]["part_streams"]
    assert set(streams) == {f"stream{t}_blk{n}" for t in range(4) for n in (3, 4)}


@pytest.mark.parametrize("backbone", osnet.BACKBONES)
def test_names_and_shapes_are_the_authors(backbone):
    torch = needs.package("torch")
    from torch_osnet import TorchOSNet

    kind, width = kind_of(backbone), osnet.BACKBONES[backbone].width
    with torch.device("meta"):
        state = TorchOSNet(kind, width=width, classes=7).state_dict()
    name_of = NAMES[FORMATS[kind]]
    flat = flatten_dict(shapes(backbone))
    ours = {name_of(path): torch_shape(leaf.shape) for path, leaf in flat.items()}
    assert ours == {n: tuple(t.shape) for n, t in state.items() if "num_batches" not in n}
    assert all(canonical(name) == canonical(f"module.{name}") == name for name in ours)


def test_names_that_show_the_layouts():
    path = ("params", "blk3", "unit1", "stream4_light2", "depthwise", "kernel")
    assert NAMES[OSNET](path) == "conv3.1.conv2d.2.conv2.weight"
    assert NAMES[OSNET_AIN](path) == "conv3.1.conv2.3.layers.2.conv2.weight"
    path = ("batch_stats", "blk2", "transition", "bn", "var")
    assert NAMES[OSNET](path) == "conv2.2.0.bn.running_var"
    assert NAMES[OSNET_AIN](path) == "pool2.0.bn.running_var"
    path = ("params", "blk4", "unit0", "instance_norm", "scale")
    assert NAMES[OSNET_IBN](path) == "conv4.0.IN.weight"
    assert NAMES[OSNET](("params", "part_streams", "stream0_blk3", "unit0", "conv1", "bn")) is None


def compare_features(kind, backbone, width, size, tmp_path):
    """Load a PyTorch network's file, and compare the features of random images."""
    torch = needs.package("torch")
    import torch_batnet
    from torch_osnet import TorchOSNet

    own = osnet.BACKBONES[backbone].width * width
    images = np.random.default_rng(0).standard_normal((16, *size, 3)).astype(np.float32)
    network = torch_batnet.randomise(TorchOSNet(kind, width=own, classes=7), seed=0)
    settle(network, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    images = images[:2]
    torch.save({"state_dict": network.state_dict()}, tmp_path / "osnet.pth.tar")
    config = make_config(backbone, width=width)
    fresh = draw(config, seed=1)
    filled, report = weights.initialise(config, fresh, tmp_path / "osnet.pth.tar")
    assert [name for name, _ in report.initial] == [
        f"params/appearance_head/classifier/{leaf}" for leaf in ("bias", "kernel")
    ]
    assert {why for _, why in report.skipped} == {
        "PyTorch's count of batches", "made for the new identities"
    }  # fmt: skip
    ours = jit(make_model(config, 5, axis_name=None).apply)(filled, images)
    ours = ours["features"]["appearance"]
    with torch.no_grad():
        theirs, _ = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    assert 0.1 < theirs.std() < 10  # not all zeros, and of the size of features
    # Of unit length, as they are compared. Some 60 layers in float32 differ by 5e-6.
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in map(np.asarray, (ours, theirs))]
    np.testing.assert_allclose(*unit, atol=3e-5)


@pytest.mark.parametrize("kind", ["plain", "ain"])
def test_features_equal_pytorchs(kind, tmp_path):
    compare_features(kind, *KINDS[kind], SIZE, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", osnet.BACKBONES)
def test_features_equal_pytorchs_at_true_shapes(backbone, tmp_path):
    compare_features(kind_of(backbone), backbone, 1.0, (256, 128), tmp_path)


def run_blocks(variables, images, backbone):
    """Return the maps p1..p4 of our backbone in training, and its new statistics."""
    maps, stats, x = [], {}, images
    for number in (1, 2, 3, 4):
        own = {kind: tree[f"blk{number}"] for kind, tree in variables.items() if tree}
        block = BACKBONES[backbone](number, width=1 / 16, dtype=jnp.float64)
        x, new = block.apply(own, x, train=True, mutable=["batch_stats"])
        maps.append(x)
        stats[f"blk{number}"] = new.get("batch_stats", {})
    return maps, stats


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["ibn", "ain"])  # their other blocks are those of osnet_x1_0
def test_training_and_gradients_equal_pytorchs(kind, monkeypatch):
    """Maps, running statistics and gradients of a network with two streams, in float64."""
    torch = needs.package("torch")
    import torch_batnet
    import torch_osnet

    for module in (osnet, torch_osnet):
        monkeypatch.setattr(module, "STREAMS", 2)
    backbone = f"osnet_{kind}_x1_0"
    network = torch_batnet.randomise(torch_osnet.TorchOSNet(kind, width=1 / 16), seed=0)
    state = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}
    name_of = NAMES[FORMATS[kind]]
    config = make_config(backbone, width=1 / 16)
    flat = {path: leaf for path, leaf in flatten(draw(config)).items() if path[1][:3] == "blk"}
    variables = {"params": {}, "batch_stats": {f"blk{n}": {} for n in (1, 2, 3, 4)}}
    for path in flat:
        place = variables[path[0]]
        for name in path[1:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = from_torch(path, state[name_of(path)])

    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, *SIZE, 3))
    network.double().train()
    theirs = network.maps(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    scales = rng.standard_normal(theirs[-1].shape)
    (theirs[-1] * torch.from_numpy(scales)).sum().backward()

    def weighed(params):
        maps, stats = run_blocks({**variables, "params": params}, images, backbone)
        return (maps[-1] * scales.transpose(0, 2, 3, 1)).sum(), (maps, stats)

    found, (maps, stats) = jit(jax.grad(weighed, has_aux=True))(variables["params"])
    for own, other in zip(maps, theirs, strict=True):
        expected = other.detach().numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(own, expected, rtol=1e-9, atol=1e-9)
    after = network.state_dict()
    for path, leaf in flatten({"batch_stats": stats}).items():
        np.testing.assert_allclose(leaf, after[name_of(path)], rtol=1e-9, atol=1e-9)
    expected = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    gradients = {
        name_of(path): to_torch(path, leaf) for path, leaf in flatten({"params": found}).items()
    }
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        other = expected[name].numpy()
        assert np.abs(gradient - other).max() < 1e-8 * np.abs(other).max() + 1e-12, name


@pytest.mark.usefixtures("float64")
def test_instance_normalisation_of_each_image_alone():
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 2)) * [1, 50] + [0, 1000]
    variables = {"params": {"scale": np.array([1.0, 2.0]), "bias": np.array([0.5, 0.0])}}
    y = InstanceNorm(jnp.float64).apply(variables, x)
    for image, normalised in zip(x, y, strict=True):
        mean, deviation = image.mean((0, 1)), np.sqrt(image.var((0, 1)) + 1e-5)
        expected = (image - mean) / deviation * [1.0, 2.0] + [0.5, 0.0]
        np.testing.assert_allclose(normalised, expected, atol=1e-12)


def test_bfloat16_reaches_blk4_and_the_head_as_float32(monkeypatch):
    monkeypatch.setattr(osnet, "STREAMS", 1)
    model = BATNet(5, backbone="osnet_ain_x0_25", **HEAD, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
    run = partial(model.apply, train=False, capture_intermediates=True, mutable=["intermediates"])
    outputs, updates = jax.eval_shape(run, shapes_of(model, images.shape), images)
    blocks = updates["intermediates"]
    types = {number: blocks[f"blk{number}"]["__call__"][0].dtype for number in (1, 2, 3, 4)}
    assert types == {1: jnp.bfloat16, 2: jnp.bfloat16, 3: jnp.bfloat16, 4: jnp.float32}
    assert {f.dtype for f in outputs["features"].values()} == {jnp.dtype("float32")}
