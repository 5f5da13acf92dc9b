"""FastReID's and IBN-Net's ResNet-50: names, features, gradients, and files that are refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import needs
from support.fast_jit import jit
from support.tiny_resnet import BARE, SIZE, WIDTH, shapes_of
from support.tiny_weights import write
from support.torch_networks import settle

import batnet_jax
from batnet_jax import weights
from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.models import BACKBONES, BATNet, resnet
from batnet_jax.models.build import make_model
from batnet_jax.models.heads import GeM
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.weights.convert import flatten, from_torch, to_torch, torch_shape
from batnet_jax.weights.given import given_config
from batnet_jax.weights.names import NAMES, RESNET_IBN, canonical, fastreid_name, resnet_name
from batnet_jax.weights.sources import OtherNetworkError, check_agrees, open_source

# The options of the PyTorch version, by our backbone, and its parameters without the classifier.
NON_LOCALS = (0, 2, 3, 0)
OPTIONS = {
    "fastreid_r50": {},
    "fastreid_r50_ibn": {"ibn": True},
    "fastreid_r50_nl": {"non_locals": NON_LOCALS},
    "fastreid_r50_ibn_nl": {"ibn": True, "non_locals": NON_LOCALS},
}
MODEL = {**BARE, "neck": "bnneck_gem"}


def config_of(backbone="fastreid_r50_ibn_nl", **model):
    config = default_config()
    config.data.image_size = SIZE
    config.model.update({**MODEL, "width": WIDTH, "backbone": backbone, **model})
    return config


def draw(config, seed=0):
    return draw_variables(make_model(config, 5, axis_name=None), SIZE, seed)


@pytest.mark.parametrize("backbone", OPTIONS)
def test_names_and_shapes_are_fastreids(backbone):
    torch = needs.package("torch")
    from support import torch_resnet

    with torch.device("meta"):
        network = torch_resnet.TorchFastReID(gem=True, classes=50, **OPTIONS[backbone])
    state = network.state_dict()
    flat = flatten_shapes(BATNet(50, **{**MODEL, "backbone": backbone}))
    ours = {fastreid_name(path): torch_shape(shape) for path, shape in flat.items()}
    others = ("num_batches_tracked", "pixel_mean", "pixel_std", "heads.bottleneck.0.bias")
    assert ours == {n: tuple(t.shape) for n, t in state.items() if not n.endswith(others)}
    assert all(canonical(f"module.{name}") == name for name in ours)
    facts = {
        "backbone.conv1.weight": (64, 3, 7, 7),
        "heads.bottleneck.0.running_var": (2048,),
        "heads.pool_layer.p": (1,),
        "heads.weight": (50, 2048),
    }
    if "ibn" in backbone:
        facts |= {
            "backbone.layer3.5.bn1.IN.bias": (128,),
            "backbone.layer3.5.bn1.BN.running_mean": (128,),
            "backbone.layer4.0.bn1.weight": (512,),
        }
    if "nl" in backbone:
        facts |= {"backbone.NL_3.2.W.0.weight": (1024, 1, 1, 1), "backbone.NL_2.1.g.bias": (1,)}
    assert {name: ours[name] for name in facts} == facts


def flatten_shapes(model):
    shapes = jax.tree_util.tree_leaves_with_path(shapes_of(model))
    return {tuple(key.key for key in path): leaf.shape for path, leaf in shapes}


@pytest.mark.parametrize(
    ("backbone", "more"),
    [
        # A half of each norm takes a half of another's place.
        pytest.param("resnet50_ibn", 0, marks=pytest.mark.slow),
        pytest.param("fastreid_r50", 0, marks=pytest.mark.slow),
        # g, theta, phi and the way back, each with a bias, and a normalisation
        ("fastreid_r50_nl", sum(n * (3 * (c + 1) + 4 * c) for n, c in ((2, 512), (3, 1024)))),
    ],
)
def test_parameter_counts(backbone, more):
    def count(name):
        shapes = flatten_shapes(BATNet(5, **{**BARE, "backbone": name}))
        return sum(np.prod(shape) for path, shape in shapes.items() if path[0] == "params")

    assert count(backbone) - count("resnet50") == more


def make_network(options, *, gem, units=(3, 4, 6, 3), width=WIDTH):
    """Return a PyTorch network whose norms have unlike values, and no shift in the neck."""
    import torch_batnet
    from support import torch_resnet

    network = torch_resnet.TorchFastReID(gem=gem, width=width, units=units, **options)
    torch_batnet.randomise(network, seed=0)
    network.heads.bottleneck[0].bias.data.zero_()
    for name, value in network.named_parameters():
        if name.endswith(("theta.weight", "phi.weight", "g.weight")):
            value.data.mul_(0.1)  # a block multiplies three of its inputs
    return network


def compare_features(backbone, gem, width, size, tmp_path):
    """Load FastReID's file as a model, and compare the features of images."""
    torch = needs.package("torch")
    network = make_network(OPTIONS[backbone], gem=gem, width=width)
    pixels = np.random.default_rng(0).integers(0, 256, (8, *size, 3), np.uint8)
    settle(network, torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32)))
    path, images = tmp_path / "sbs.pth", pixels[:2]
    torch.save({"model": network.state_dict(), "iteration": 7}, path)
    model = batnet_jax.load(path, image_size=size, batch=2)
    assert model.config.model.backbone == backbone
    with torch.no_grad():
        theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32))).numpy()
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    assert np.abs(theirs[0] - theirs[1]).max() > 1e-3
    np.testing.assert_allclose(model.embed(images), theirs, atol=1e-4)


@pytest.mark.parametrize(("backbone", "gem"), [("fastreid_r50_ibn_nl", True)])
def test_features_equal_pytorchs(backbone, gem, tmp_path):
    compare_features(backbone, gem, WIDTH, SIZE, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "gem"),
    [("fastreid_r50", False), ("fastreid_r50_ibn_nl", True), ("fastreid_r50_nl", True)],
)
def test_features_equal_pytorchs_at_true_shapes(backbone, gem, tmp_path):
    compare_features(backbone, gem, 1.0, (384, 128), tmp_path)


@pytest.mark.usefixtures("float64")
def test_training_and_gradients_equal_pytorchs(monkeypatch):
    """Maps, running statistics and gradients of a short network with every part, in float64."""
    torch = needs.package("torch")
    units = (1, 1, 2, 1)
    for number, count in enumerate(units, 1):
        monkeypatch.setitem(resnet.UNITS, number, count)
    network = make_network({"ibn": True, "non_locals": (0, 1, 2, 0)}, gem=True, units=units)
    state = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}
    variables = {"params": {}, "batch_stats": {}}
    for path in flatten(draw(config_of())):
        if path[1].startswith("blk"):
            place = variables[path[0]]
            for name in path[1:-1]:
                place = place.setdefault(name, {})
            place[path[-1]] = from_torch(path, state[fastreid_name(path)])
    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, *SIZE, 3))
    backbone = network.backbone.double().train()
    theirs = backbone(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    scales = rng.standard_normal(theirs[-1].shape)
    (theirs[-1] * torch.from_numpy(scales)).sum().backward()

    def weighed(params):
        maps, stats, x = [], {}, images
        for number in (1, 2, 3, 4):
            own = {"params": params, "batch_stats": variables["batch_stats"]}
            own = {kind: tree[f"blk{number}"] for kind, tree in own.items()}
            block = BACKBONES["fastreid_r50_ibn_nl"](number, width=WIDTH, dtype=jnp.float64)
            x, new = block.apply(own, x, train=True, mutable=["batch_stats"])
            maps.append(x)
            stats[f"blk{number}"] = new["batch_stats"]
        return (maps[-1] * scales.transpose(0, 2, 3, 1)).sum(), (maps, stats)

    found, (maps, stats) = jit(jax.grad(weighed, has_aux=True))(variables["params"])
    for own, other in zip(maps, theirs, strict=True):
        expected = other.detach().numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(own, expected, rtol=1e-9, atol=1e-9)
    after = network.state_dict()
    for path, leaf in flatten({"batch_stats": stats}).items():
        np.testing.assert_allclose(leaf, after[fastreid_name(path)], rtol=1e-9, atol=1e-9)
    expected = {f"backbone.{name}": p.grad for name, p in backbone.named_parameters()}
    gradients = {
        fastreid_name(path): to_torch(path, leaf)
        for path, leaf in flatten({"params": found}).items()
    }
    assert gradients.keys() == expected.keys()
    # A bias before a batch normalisation has no gradient but rounding.
    for name, gradient in gradients.items():
        other = expected[name].numpy()
        assert np.abs(gradient - other).max() < 1e-8 * np.abs(other).max() + 1e-10, name


@pytest.mark.usefixtures("float64")
def test_gem_and_its_gradient_are_the_formula():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))

    def gem(x, power):
        return GeM().apply({"params": {"power": power}}, x)

    power = np.array([2.5])
    kept = np.maximum(x, 1e-6)
    expected = (kept**2.5).mean((1, 2)) ** (1 / 2.5)
    np.testing.assert_allclose(gem(x, power), expected, rtol=1e-12)
    np.testing.assert_allclose(gem(x, np.array([1.0])), kept.mean((1, 2)), rtol=1e-12)
    d_x, d_power = jax.grad(lambda x, p: gem(x, p).sum(), argnums=(0, 1))(x, power)
    mean = (kept**2.5).mean((1, 2), keepdims=True)
    slope = mean ** (1 / 2.5 - 1) * kept**1.5 / 12 * (x > 1e-6)
    np.testing.assert_allclose(d_x, slope, rtol=1e-9, atol=1e-15)
    step = 1e-6
    rise = (gem(x, power + step).sum() - gem(x, power - step).sum()) / (2 * step)
    np.testing.assert_allclose(d_power, rise, rtol=1e-7)


def named(variables, name_of=fastreid_name):
    flat = {name_of(path): to_torch(path, v) for path, v in flatten(variables).items()}
    flat.pop(None, None)
    return flat


@pytest.fixture(scope="module")
def short():
    with pytest.MonkeyPatch.context() as patch:
        for number, count in {1: 1, 2: 2, 3: 3, 4: 1}.items():
            patch.setitem(resnet.UNITS, number, count)
        yield


@pytest.fixture(scope="module")
def state(short):
    """The tensors of a whole file, made without PyTorch."""
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    extra = {
        "heads.bottleneck.0.bias": np.zeros(128, np.float32),
        "pixel_mean": np.array(mean, np.float32).reshape(1, 3, 1, 1),
        "pixel_std": np.array(std, np.float32).reshape(1, 3, 1, 1),
    }
    return named(draw(config_of())) | extra


def test_the_settings_are_told_by_the_names(state, tmp_path):
    path = write(tmp_path / "sbs.safetensors", {f"module.{n}": t for n, t in state.items()})
    config = given_config(path)
    assert (config.model.backbone, config.model.neck) == ("fastreid_r50_ibn_nl", "bnneck_gem")
    assert tuple(config.data.image_size) == (384, 128)
    plain = {n: t for n, t in state.items() if n != "heads.pool_layer.p"}
    plain["heads.classifier.weight"] = plain.pop("heads.weight")  # as older versions name it
    config = given_config(write(tmp_path / "bot.safetensors", plain))
    assert (config.model.neck, tuple(config.data.image_size)) == ("bnneck", (256, 128))


def test_every_tensor_is_accounted_for(state, tmp_path):
    path = write(tmp_path / "sbs.safetensors", state)
    config = config_of()
    filled, report = weights.initialise(config, draw(config, seed=1), path)
    assert dict(report.skipped) == {
        "heads.bottleneck.0.bias": "a shift of 0",
        "pixel_mean": "ImageNet's, by which images are normalised",
        "pixel_std": "ImageNet's, by which images are normalised",
        "heads.weight": "made for the new identities",
    }
    assert len(report.loaded) + len(report.skipped) == len(state)
    assert filled["params"]["appearance_head"]["pool"]["power"] == 3
    other = config_of(neck="bnneck")
    _, report = weights.initialise(other, draw(other, seed=1), path)
    left = {name for name, why in report.skipped if why == "the network has another head"}
    assert "heads.bottleneck.0.weight" in left


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.update({"heads.bottleneck.0.bias": np.full(128, 0.1, "f4")}),
            r"heads.bottleneck.0.bias that is not 0, which our network takes: train from its",
        ),
        (
            lambda s: s.update({"pixel_mean": np.full((1, 3, 1, 1), 127.5, "f4")}),
            r"pixel_mean that is not 123.675, 116.280, 103.530",
        ),
        (
            lambda s: s.update({"backbone.layer1.0.se.fc.0.weight": np.zeros((4, 16), "f4")}),
            r"1 of unknown names \(backbone.layer1.0.se.fc.0.weight\)",
        ),
        (lambda s: s.pop("backbone.NL_3.2.phi.bias"), r"1 missing \(backbone.NL_3.2.phi.bias"),
        (
            lambda s: s.update({"heads.bottleneck.1.weight": np.zeros(128, "f4")}),
            r"1 of unknown names \(heads.bottleneck.1.weight\)",
        ),
    ],
    ids=["a shift", "other pixels", "squeeze and excitation", "missing", "a longer neck"],
)
def test_a_file_that_does_not_fit_is_refused(state, tmp_path, change, message):
    tensors = dict(state)
    change(tensors)
    path = write(tmp_path / "sbs.safetensors", tensors)
    with pytest.raises(UserError, match=message):
        weights.initialise(config_of(), draw(config_of(), seed=1), path)


def test_ibn_nets_own_file_fills_the_backbone(short, tmp_path):
    config = config_of("resnet50_ibn", neck="bnneck")
    theirs = draw(config)
    tensors = named(theirs, resnet_name) | {"fc.weight": np.zeros((7, 128), np.float32)}
    path = write(tmp_path / "w.safetensors", {f"module.{n}": t for n, t in tensors.items()})
    filled, report = weights.initialise(config, draw(config, seed=1), path)
    assert report.format == RESNET_IBN
    assert NAMES[RESNET_IBN](("params", "blk1", "unit0", "norm1", "instance", "scale")) == (
        "layer1.0.bn1.IN.weight"
    )
    jax.tree.map(np.testing.assert_array_equal, filled["params"]["blk3"], theirs["params"]["blk3"])
    with pytest.raises(OtherNetworkError) as caught:
        check_agrees(open_source(config, path), config_of().model, whole=False)
    assert caught.value.found == {"backbone": "resnet50_ibn"}


def test_a_fresh_non_local_block_changes_nothing(short):
    x = np.random.default_rng(0).standard_normal((2, 4, 2, 8)).astype(np.float32)
    block = resnet.NonLocal()
    variables = block.init(jax.random.key(0), x, train=False)
    np.testing.assert_array_equal(block.apply(variables, x, train=False), x)
    drawn = draw(config_of())["params"]["blk2"]["non_local0"]
    assert not drawn["zero_bn"]["scale"].any()
    assert drawn["theta"]["kernel"].all()


def test_bfloat16_reaches_blk4_as_float32(short):
    model = BATNet(5, **{**MODEL, "backbone": "fastreid_r50_ibn_nl"}, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
    run = partial(model.apply, train=False, capture_intermediates=True, mutable=["intermediates"])
    outputs, updates = jax.eval_shape(run, shapes_of(model, SIZE), images)
    blocks = updates["intermediates"]
    types = [blocks[f"blk{number}"]["__call__"][0].dtype for number in (1, 2, 3, 4)]
    assert types == [jnp.bfloat16, jnp.bfloat16, jnp.bfloat16, jnp.float32]
    assert outputs["features"]["appearance"].dtype == jnp.float32
