"""The vision transformer: counts, names, features and gradients compared with PyTorch's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import needs
from support.fast_jit import jit
from support.networks import shapes_of
from support.tiny_weights import write
from support.variants import few

import batnet_jax
from batnet_jax import weights
from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.models import BACKBONES, BATNet, vit
from batnet_jax.models.build import make_model
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.models.preprocess import HALF, normalise, rescale
from batnet_jax.models.token_map import TokenMap
from batnet_jax.modes.import_weights import import_weights
from batnet_jax.weights.convert import flatten, from_torch, to_torch, torch_shape
from batnet_jax.weights.given import given_config
from batnet_jax.weights.names import NAMES, VIT, canonical
from batnet_jax.weights.sources import open_source
from batnet_jax.weights.vit_names import grid_of, resize_positions, shape_of_grid

SIZE = (64, 32)
WIDTH = 1 / 16  # 4 channels a head
BARE = {
    "neck": "bnneck", "embedding_dim": 0, "dropout": 0.0, "attention": "none", "num_parts": 0
}  # fmt: skip


def make_config(backbone="vit_s16", size=SIZE, **model):
    config = default_config()
    config.data.image_size = size
    config.model.update({**BARE, "backbone": backbone, "width": WIDTH, **model})
    return config


def draw(config, seed=0):
    model = make_model(config, 5, axis_name=None)
    rng = np.random.default_rng(seed)

    def noise(leaf):
        return (leaf + 0.2 * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree.map(noise, draw_variables(model, tuple(config.data.image_size), seed))


def torch_options(backbone, size, width=WIDTH):
    variant = vit.BACKBONES[backbone]
    return {
        "channels": vit.embed_dim(variant, width), "heads": variant.heads,
        "grid": grid_of(size, variant), "patch": variant.patch, "stride": variant.stride,
        "layer_scale": variant.layer_scale, "registers": variant.registers,
    }  # fmt: skip


# timm's counts without the classifier, at 224 x 224; DINOv2's at 518 x 518, less its mask token.
COUNTS = {
    "vit_s16": (21_665_664, (224, 224)),
    "vit_b16": (85_798_656, (224, 224)),
    "vit_s14_dinov2": (22_056_576 - 384, (518, 518)),
    "vit_b14_dinov2": (86_580_480 - 768, (518, 518)),
}


@pytest.mark.parametrize(("backbone", "expected"), COUNTS.items())
def test_parameter_counts(backbone, expected):
    count, size = expected
    params = shapes_of(BATNet(5, **BARE, backbone=backbone), (2, *size, 3))["params"]
    channels = vit.embed_dim(vit.BACKBONES[backbone], 1.0)
    head = channels + 5 * channels
    # The class token has its position in it.
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) - head + channels == count


@pytest.mark.parametrize("backbone", ["vit_b16", "vit_s14_dinov2_reg4"])
def test_names_and_shapes_are_timms(backbone):
    torch = needs.package("torch")
    import torch_vit

    with torch.device("meta"):
        state = torch_vit.TorchViT(**torch_options(backbone, (256, 128), 1.0)).state_dict()
    flat = flatten_shapes(BATNet(5, **BARE, backbone=backbone), (256, 128))
    ours = {NAMES[VIT](path): torch_shape(shape) for path, shape in flat.items()}
    ours.pop(None)
    theirs = {n: tuple(t.shape) for n, t in state.items() if not n.startswith("head.")}
    for name in ("cls_token", "pos_embed"):  # in our form in one of them, in timm's in the other
        assert np.prod(ours.pop(name)) <= np.prod(theirs.pop(name))
    assert ours == theirs
    assert all(canonical(f"module.{name}") == name for name in ours)
    facts = {"blocks.11.attn.qkv.weight", "blocks.3.mlp.fc2.bias", "norm.weight"}
    facts |= {"blocks.0.ls2.gamma", "reg_token"} if "reg4" in backbone else set()
    assert facts <= ours.keys()
    assert canonical("register_tokens") == "reg_token"


def flatten_shapes(model, size):
    shapes = jax.tree_util.tree_leaves_with_path(shapes_of(model, (2, *size, 3)))
    return {tuple(key.key for key in path): leaf.shape for path, leaf in shapes}


@pytest.mark.parametrize(
    ("parts", "backbone"), few([(4, "vit_s16"), (2, "vit_s16_mean")], keep=[1])
)
def test_attention_and_parts_see_the_tokens_as_a_map(parts, backbone):
    model = BATNet(
        5, backbone=backbone, width=WIDTH, attention="aia", position="p1,p2,p3,p4", num_parts=parts
    )
    images = jax.ShapeDtypeStruct((2, 256, 128, 3), jnp.float32)
    outputs = jax.eval_shape(model.apply, shapes_of(model, images.shape), images)
    last = (16, 8) if "mean" in backbone else (1, 1)
    shapes = [(2, *grid, 24) for grid in ((16, 8), (16, 8), (16, 8), last)]
    assert [maps["mask"].shape for maps in outputs["attention"].values()] == shapes
    assert {name: f.shape for name, f in outputs["features"].items()} == {
        "appearance": (2, 512), "part": (2, 512)
    }  # fmt: skip


def load_torch(backbone, size, width, tmp_path, *, images):
    """Return PyTorch's tokens of pixels, and the path of the file of the network."""
    torch = needs.package("torch")
    import torch_vit

    network = torch_vit.randomise(torch_vit.TorchViT(**torch_options(backbone, size, width))).eval()
    path = tmp_path / "vit.pth"
    torch.save(network.state_dict(), path)
    prepared = np.asarray(normalise(images))
    if vit.BACKBONES[backbone].pixels == HALF:
        prepared = images.astype(np.float32) / 127.5 - 1
    with torch.no_grad():
        tokens = network(torch.from_numpy(prepared.transpose(0, 3, 1, 2).copy())).numpy()
    return tokens, path


def compare_features(backbone, size, width, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    tokens, path = load_torch(backbone, size, width, tmp_path, images=images)
    variant = vit.BACKBONES[backbone]
    theirs = tokens[:, 1 + variant.registers :].mean(1) if variant.mean else tokens[:, 0]
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    config = make_config(backbone, size, width=width)
    model = make_model(config, 5, axis_name=None)
    filled, report = weights.initialise(config, draw_variables(model, size, 1), path)
    assert {name.split("/")[1] for name, _ in report.initial} == {"appearance_head"}
    ours = jit(partial(model.apply, train=False))(filled, np.asarray(normalise(images)))
    ours = np.asarray(ours["features"]["appearance"])
    ours = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    assert np.abs(ours[0] - ours[1]).max() > 1e-3
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("backbone", ["vit_s16_stride12", "vit_s14_dinov2_reg4", "vit_s16_mean"])
def test_features_equal_pytorchs(backbone, tmp_path):
    compare_features(backbone, SIZE, WIDTH, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vit_s16", "vit_b16_stride12", "vit_s14_dinov2"])
def test_features_equal_pytorchs_at_true_shapes(backbone, tmp_path):
    compare_features(backbone, (256, 128), 1.0, tmp_path)


def plain_attention(query, key, value):
    """Attention of [b, t, heads, d] in the type of its arguments; JAX's softmax is float32."""
    weights = jnp.einsum("bthd,bshd->bhts", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(weights), value)


@pytest.mark.usefixtures("float64")
def test_attention_and_its_gradient_are_the_formula():
    rng = np.random.default_rng(0)
    arguments = [rng.standard_normal((2, 5, 3, 4)) for _ in range(3)]
    scales = rng.standard_normal((2, 5, 3, 4))

    def weighed(attention):
        def total(*arguments):
            return (attention(*arguments) * scales).sum()

        return jax.value_and_grad(total, argnums=(0, 1, 2))(*arguments)

    # The softmax in float32 leaves seven digits.
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        weighed(jax.nn.dot_product_attention),
        weighed(plain_attention),
    )


@pytest.mark.usefixtures("float64")
def test_maps_and_gradients_equal_pytorchs(monkeypatch):
    """Four layers with LayerScale and registers, in float64."""
    monkeypatch.setattr(jax.nn, "dot_product_attention", plain_attention)
    torch = needs.package("torch")
    import torch_vit

    monkeypatch.setattr(vit, "LAYERS", 1)
    backbone = "vit_s14_dinov2_reg4"
    network = torch_vit.TorchViT(**torch_options(backbone, SIZE), depth=4)
    network = torch_vit.randomise(network).double()
    state = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    grid = grid_of(SIZE, vit.BACKBONES[backbone])
    state["cls_token"] = state["cls_token"].reshape(-1)
    state["pos_embed"] = state["pos_embed"].reshape(*grid, -1)
    params = {}
    for path in flatten(draw(make_config(backbone))):
        if path[1].startswith("blk"):
            place = params
            for name in path[1:-1]:
                place = place.setdefault(name, {})
            place[path[-1]] = from_torch(path, state[NAMES[VIT](path)])
    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, *SIZE, 3))
    theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))[:, 0]
    scales = rng.standard_normal(theirs.shape)
    (theirs * torch.from_numpy(scales)).sum().backward()

    def weighed(params):
        x = images
        for number in (1, 2, 3, 4):
            block = BACKBONES[backbone](number, width=WIDTH, dtype=jnp.float64)
            x = block.apply({"params": params[f"blk{number}"]}, x, train=True)
        return (x[:, 0, 0] * scales).sum(), x

    found, features = jit(jax.grad(weighed, has_aux=True))(params)
    np.testing.assert_allclose(features[:, 0, 0], theirs.detach(), rtol=1e-9, atol=1e-9)
    for path, leaf in flatten({"params": found}).items():
        name = NAMES[VIT](path)
        other = dict(network.named_parameters())[name].grad.numpy()
        gradient = to_torch(path, leaf).reshape(other.shape)
        assert np.abs(gradient - other).max() < 1e-8 * np.abs(other).max() + 1e-12, name


def named(variables):
    flat = {NAMES[VIT](path): to_torch(path, v) for path, v in flatten(variables).items()}
    flat.pop(None, None)
    token, positions = flat.pop("cls_token"), flat.pop("pos_embed")
    own = np.full((1, len(token)), 0.25, np.float32)
    flat["cls_token"] = (token - own)[None]
    flat["pos_embed"] = np.concatenate([own, positions.reshape(-1, len(token))])[None]
    return flat


@pytest.fixture(scope="module")
def theirs():
    return draw(make_config())


def assert_same(ours, theirs):
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), ours, theirs)


def test_a_file_fills_the_backbone(theirs, tmp_path):
    tensors = {f"module.base.{name}": t for name, t in named(theirs).items()}
    tensors["module.base.head.weight"] = np.zeros((7, 24), np.float32)
    tensors["module.bottleneck.weight"] = np.zeros(24, np.float32)
    path = write(tmp_path / "w.safetensors", tensors)
    filled, report = weights.initialise(make_config(), draw(make_config(), 1), path)
    for number in (1, 2, 3, 4):
        assert_same(filled["params"][f"blk{number}"], theirs["params"][f"blk{number}"])
    assert dict(report.skipped) == {
        "module.base.head.weight": "classifier, or CLIP's projection",
        "module.bottleneck.weight": "without the prefix",
    }
    rows = {ours: original for ours, original, _ in report.loaded}
    assert rows["params/blk1/token"] == "module.base.cls_token + module.base.pos_embed[0]"


def test_the_teacher_of_a_training_checkpoint_is_read(theirs, tmp_path):
    """As DINO and PersonViT save it."""
    torch = needs.package("torch")
    names = {f"module.backbone.{n}": torch.from_numpy(t) for n, t in named(theirs).items()}
    names |= {"module.backbone.masked_embed": torch.ones(1, 24), "module.head.last": torch.ones(3)}
    student = {name: tensor + 1 for name, tensor in names.items()}
    content = {"student": student, "teacher": names, "epoch": 3, "args": None}
    torch.save(content, tmp_path / "w.pth")
    filled, report = weights.initialise(make_config(), draw(make_config(), 1), tmp_path / "w.pth")
    assert_same(filled["params"]["blk3"], theirs["params"]["blk3"])
    assert dict(report.skipped) == {
        "module.backbone.masked_embed": "for training without labels",
        "module.head.last": "without the prefix",
    }


def test_the_global_branch_of_transreid_is_the_last_layer(theirs, tmp_path):
    tensors = {f"base.{name}": t for name, t in named(theirs).items()}
    last = {n: t for n, t in tensors.items() if n.startswith("base.blocks.11.")}
    tensors |= {n.replace("base.blocks.11.", "b1.0."): t + 1 for n, t in last.items()}
    tensors |= {f"b1.1.{leaf}": tensors[f"base.norm.{leaf}"] - 1 for leaf in ("weight", "bias")}
    tensors["base.sie_embed"] = np.zeros((6, 1, 24), np.float32)
    path = write(tmp_path / "w.safetensors", tensors)
    filled, report = weights.initialise(make_config(), draw(make_config(), 1), path)
    kept, given = (tree["params"]["blk4"] for tree in (filled, theirs))
    assert_same(kept["layer2"], jax.tree.map(lambda leaf: leaf + 1, given["layer2"]))
    assert_same(kept["norm"], jax.tree.map(lambda leaf: leaf - 1, given["norm"]))
    assert_same(kept["layer1"], given["layer1"])
    why = dict(report.skipped)
    assert why["base.blocks.11.attn.qkv.weight"] == "replaced by the global branch, b1"
    assert why["base.sie_embed"] == "of cameras, which our network does not take"
    assert not any(name.startswith("b1.") for name in why)


def test_positions_are_resized_to_the_images(theirs, tmp_path):
    """From a file, and from a run with other images."""
    path = write(tmp_path / "w.safetensors", named(theirs))
    config = make_config(size=(96, 48))
    filled, report = weights.initialise(config, draw(config, 1), path)
    positions = theirs["params"]["blk1"]["positions"]
    wanted = resize_positions(positions, (6, 3))
    np.testing.assert_allclose(filled["params"]["blk1"]["positions"], wanted, atol=1e-6)
    done = {ours: words for ours, _, words in report.loaded}
    assert done["params/blk1/positions"] == "4 x 2 resized to 6 x 3"
    import_weights(config, path, tmp_path / "run")
    again, _ = weights.initialise(make_config(), draw(make_config(), 1), tmp_path / "run")
    back = again["params"]["blk1"]["positions"]
    np.testing.assert_allclose(back, resize_positions(wanted, (4, 2)), atol=1e-5)


@pytest.mark.parametrize("grid", [(16, 8), (3, 5)])
def test_resized_positions_equal_pytorchs(grid):
    torch = needs.package("torch")
    from torch.nn import functional

    given = np.random.default_rng(0).standard_normal((7, 7, 3)).astype(np.float32)
    moved = torch.from_numpy(given.transpose(2, 0, 1).copy())[None]
    wanted = functional.interpolate(moved, grid, mode="bicubic", antialias=True)[0]
    got = resize_positions(given, grid)
    np.testing.assert_allclose(got, wanted.numpy().transpose(1, 2, 0), atol=1e-5)


def test_grids_by_the_number_of_patches():
    grids = {
        196: (14, 14),
        128: (16, 8),
        210: (21, 10),
        192: (24, 8),
        310: (31, 10),
        1369: (37, 37),
    }
    assert {count: shape_of_grid(count) for count in grids} == grids
    assert [shape_of_grid(count) for count in (7, 0)] == [None, None]


def state_for(backbone, grid, channels=384):
    """Tensors of the right names; only those that show the network have the right shapes."""
    variant = vit.BACKBONES[backbone]
    tensors = {
        "blocks.0.attn.qkv.weight": np.zeros((3, 3), "f4"),
        "patch_embed.proj.weight": np.zeros((channels, 3, variant.patch, variant.patch), "f4"),
        "cls_token": np.zeros((1, 1, channels), "f4"),
        "pos_embed": np.zeros((1, grid[0] * grid[1] + 1, channels), "f4"),
    }
    if variant.layer_scale:
        tensors["blocks.11.ls1.gamma"] = np.zeros(3, "f4")
    if variant.registers:
        tensors["register_tokens"] = np.zeros((1, variant.registers, channels), "f4")
    return tensors


@pytest.mark.parametrize(
    ("backbone", "grid", "channels", "size"),
    [
        ("vit_s16", (14, 14), 384, (256, 128)),
        ("vit_b16", (16, 8), 768, (256, 128)),
        ("vit_b16_stride12", (21, 10), 768, (256, 128)),
        ("vit_b16_stride12", (31, 10), 768, (384, 128)),
        ("vit_b16", (24, 8), 768, (384, 128)),
        ("vit_s14_dinov2", (37, 37), 384, (256, 128)),
        ("vit_b14_dinov2_reg4", (37, 37), 768, (256, 128)),
    ],
)
def test_the_variant_and_the_image_size_are_told(backbone, grid, channels, size, tmp_path):
    path = write(tmp_path / "w.safetensors", state_for(backbone, grid, channels))
    config = given_config(path)
    assert (config.model.backbone, config.model.width) == (backbone, 1.0)
    assert tuple(config.data.image_size) == size
    wanted = default_config()
    wanted.model.backbone = "vit_s16_dino"  # the tensors do not show how pixels were prepared
    chosen = open_source(wanted, path).model["backbone"]
    assert chosen == ("vit_s16_dino" if channels == 384 and "s16" in backbone else backbone)


def test_load_embeds_and_says_what_it_takes(theirs, tmp_path, capsys):
    path = write(tmp_path / "w.safetensors", named(theirs))
    model = batnet_jax.load(path, image_size=SIZE, batch=1)
    said = capsys.readouterr().err
    assert "images of 64 x 32 and pixels of -1 to 1 are assumed" in said
    assert "features are the class token" in said
    assert model.embed(np.zeros((1, *SIZE, 3), np.uint8)).shape == (1, 24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.bias"), r"1 missing \(norm.bias\)"),
        (
            lambda s: s.update({"dist_token": np.zeros((1, 1, 24), "f4")}),
            r"unknown names \(dist_to",
        ),
        (
            lambda s: s.update({"pos_embed": np.zeros((1, 8, 24), "f4")}),
            "has 7 positions in pos_em",
        ),
        (
            lambda s: s.update({"blocks.12.norm1.bias": np.zeros(24, "f4")}),
            r"1 of unknown names \(blocks.12.norm1.bias\)",
        ),
    ],
    ids=["missing", "another token", "no grid", "deeper"],
)
def test_a_file_that_does_not_fit_is_refused(theirs, tmp_path, change, message):
    tensors = named(theirs)
    change(tensors)
    path = write(tmp_path / "w.safetensors", tensors)
    with pytest.raises(UserError, match=message):
        weights.initialise(make_config(), draw(make_config(), 1), path)


def test_black_and_white_are_rescaled():
    pixels = np.array([0, 255, 51], np.uint8)[:, None, None, None] * np.ones((1, 1, 1, 3), np.uint8)
    scaled = rescale(normalise(pixels))
    np.testing.assert_allclose(scaled[:, 0, 0], [[-1] * 3, [1] * 3, [-0.6] * 3], atol=1e-6)


def test_fresh_values_are_those_of_the_modules():
    config = make_config("vit_s14_dinov2_reg4")
    drawn = draw_variables(make_model(config, 5, axis_name=None), SIZE, 0)["params"]["blk1"]
    block = BACKBONES["vit_s14_dinov2_reg4"](1, width=WIDTH)
    images = jnp.zeros((1, *SIZE, 3))
    own = jax.jit(partial(block.init, train=False))(jax.random.key(0), images)["params"]
    assert jax.tree.map(np.shape, own) == jax.tree.map(np.shape, drawn)
    for name in ("token", "registers", "positions"):
        for values in (own[name], drawn[name]):
            assert 0.01 < np.std(values) < 0.03
    for values in (own, drawn):
        gamma = values["layer0"]["scale1_gamma"]
        np.testing.assert_array_equal(gamma, np.full(24, 1e-5, "f4"))
        assert 0.8 < np.std(values["layer0"]["qkv"]["kernel"]) * 24**0.5 < 1.2


def test_bfloat16_reaches_blk4_as_float32():
    model = BATNet(5, **BARE, backbone="vit_s16", width=WIDTH, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
    run = partial(model.apply, train=False, capture_intermediates=True, mutable=["intermediates"])
    outputs, updates = jax.eval_shape(run, shapes_of(model, images.shape), images)
    blocks = updates["intermediates"]
    found = [blocks[f"blk{number}"]["__call__"][0] for number in (1, 2, 3)]
    assert all(isinstance(x, TokenMap) for x in found)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("bfloat16")}
    assert blocks["blk4"]["__call__"][0].dtype == jnp.float32
    assert outputs["features"]["appearance"].dtype == jnp.float32
    inner = blocks["blk4"]["layer0"]["qkv"]["__call__"][0]
    assert inner.dtype == jnp.bfloat16
