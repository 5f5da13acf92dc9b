"""CLIP's image tower and CLIP-ReID: names, features and gradients compared with PyTorch's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from support import needs
from support.fast_jit import jit
from support.tiny_weights import write

import batnet_jax
from batnet_jax import weights
from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.models import BACKBONES, vit
from batnet_jax.models.build import make_model
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.models.preprocess import CLIP_MEAN, CLIP_STD, as_clip, normalise
from batnet_jax.weights.clip_names import as_timm
from batnet_jax.weights.convert import flatten, from_torch, to_torch
from batnet_jax.weights.given import given_config
from batnet_jax.weights.names import CLIP, NAMES
from batnet_jax.weights.sources import open_source
from batnet_jax.weights.vit_names import as_ours, grid_of

SIZE = (64, 32)
WIDTH = 1 / 16  # 4 channels a head
CHANNELS = 48
PROJECTED = 20
BARE = {"attention": "none", "num_parts": 0, "dropout": 0.0, "neck": "bnneck"}


def make_config(backbone="vit_b16_clip", size=SIZE, embedding_dim=PROJECTED, width=WIDTH):
    config = default_config()
    config.data.image_size = size
    model = {"backbone": backbone, "width": width, "embedding_dim": embedding_dim}
    config.model.update(BARE | model)
    return config


def make_tower(backbone="vit_b16_clip", size=SIZE, width=WIDTH, **options):
    needs.package("torch")
    from support import torch_clip

    variant = vit.BACKBONES[backbone]
    given = {
        "channels": vit.embed_dim(variant, width), "heads": variant.heads,
        "grid": grid_of(size, variant), "stride": variant.stride,
        "projected": PROJECTED, "quick": variant.quick_gelu,
    }  # fmt: skip
    return torch_clip.randomise(torch_clip.Tower(**given | options)).eval()


def state_of(tower, prefix="visual."):
    return {f"{prefix}{name}": value.numpy() for name, value in tower.state_dict().items()}


TEXT = {
    "positional_embedding": np.ones((77, 8), "f4"),
    "text_projection": np.ones((8, PROJECTED), "f4"),
    "logit_scale": np.ones((), "f4"),
    "token_embedding.weight": np.ones((9, 8), "f4"),
    "transformer.resblocks.0.attn.in_proj_weight": np.ones((24, 8), "f4"),
    "transformer.resblocks.0.ln_1.weight": np.ones(8, "f4"),
    "ln_final.weight": np.ones(8, "f4"),
}
REID = {
    "text_encoder.transformer.resblocks.0.attn.in_proj_weight": np.ones((24, 8), "f4"),
    "prompt_learner.cls_ctx": np.ones((7, 4, 8), "f4"),
    "classifier.weight": np.ones((7, CHANNELS), "f4"),
    "classifier_proj.weight": np.ones((7, PROJECTED), "f4"),
    "bottleneck.weight": np.ones(CHANNELS, "f4"),
    "bottleneck_proj.running_mean": np.ones(PROJECTED, "f4"),
    "cv_embed": np.ones((6, CHANNELS), "f4"),
}


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def compare_features(backbone, size, width, tmp_path, **options):
    torch = needs.package("torch")
    tower = make_tower(backbone, size, width, **options)
    is_reid = "clipreid" in backbone
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    mean, std = ((0.5,) * 3, (0.5,) * 3) if is_reid else (CLIP_MEAN, CLIP_STD)
    prepared = ((images / 255.0 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    with torch.no_grad():
        token, projected = tower(torch.from_numpy(prepared.copy()))
    theirs = torch.cat([token, projected], 1) if is_reid else projected
    prefix, beside = ("image_encoder.", REID) if is_reid else ("visual.", TEXT)
    path = write(tmp_path / "w.safetensors", state_of(tower, prefix) | beside)
    config = make_config(backbone, size, theirs.shape[1], width)
    filled, report = weights.initialise(config, draw_variables_of(config), path)
    assert [name for name, _ in report.initial] == ["params/appearance_head/classifier/kernel"]
    model = make_model(config, 5, axis_name=None)
    ours = jit(partial(model.apply, train=False))(filled, np.asarray(normalise(images)))
    ours = unit(np.asarray(ours["features"]["appearance"]))
    assert np.abs(ours[0] - ours[1]).max() > 1e-3
    np.testing.assert_allclose(ours, unit(theirs.numpy()), atol=1e-4)
    return report


def draw_variables_of(config, seed=1):
    model = make_model(config, 5, axis_name=None)
    return draw_variables(model, tuple(config.data.image_size), seed)


@pytest.mark.parametrize("backbone", ["vit_b16_clip", "vit_b16_clip_gelu"])
def test_the_projected_feature_equals_pytorchs(backbone, tmp_path):
    report = compare_features(backbone, SIZE, WIDTH, tmp_path)
    assert dict(report.skipped) == dict.fromkeys(TEXT, "of the text")


def test_clip_reids_feature_is_the_token_and_its_projection(tmp_path):
    report = compare_features("vit_b16_clipreid_stride12", SIZE, WIDTH, tmp_path)
    assert dict(report.skipped) == {
        "text_encoder.transformer.resblocks.0.attn.in_proj_weight": "of the text",
        "prompt_learner.cls_ctx": "of the text",
        "classifier.weight": "classifier of other identities",
        "classifier_proj.weight": "classifier of other identities",
        "bottleneck.weight": "of the classifiers: the authors test without it",
        "bottleneck_proj.running_mean": "of the classifiers: the authors test without it",
        "cv_embed": "of cameras, which our network does not take",
    }


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vit_b16_clip", "vit_b16_clipreid_stride12"])
def test_features_equal_pytorchs_at_true_shapes(backbone, tmp_path):
    compare_features(backbone, (256, 128), 1.0, tmp_path, projected=512)


def test_pixels_are_prepared_by_clips_mean_and_deviation():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    wanted = (images / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    np.testing.assert_allclose(as_clip(normalise(images)), wanted, atol=1e-5)
    assert (CLIP_MEAN[0], CLIP_STD[2]) == (0.48145466, 0.27577711)


def plain_attention(query, key, value):
    """Attention of [b, t, heads, d] in the type of its arguments; JAX's softmax is float32."""
    weights = jnp.einsum("bthd,bshd->bhts", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(weights), value)


@pytest.mark.usefixtures("float64")
def test_gradients_equal_pytorchs(monkeypatch):
    """Four layers, in float64."""
    torch = needs.package("torch")
    monkeypatch.setattr(jax.nn, "dot_product_attention", plain_attention)
    monkeypatch.setattr(vit, "LAYERS", 1)
    tower = make_tower(depth=4).double()

    def by_ours(tensors):
        named = {name: (name, tensor.detach().numpy()) for name, tensor in tensors.items()}
        timm = as_ours("w", as_timm(named, clipreid=False))
        return {name: tensor for name, (_, tensor) in timm.items()}

    state, params = by_ours(tower.state_dict()), {}
    grid = grid_of(SIZE, vit.BACKBONES["vit_b16_clip"])
    state["pos_embed"] = tower.positional_embedding.detach().numpy()[1:].reshape(*grid, -1)
    state["cls_token"] = (tower.class_embedding + tower.positional_embedding[0]).detach().numpy()
    for path in flatten(draw_variables_of(make_config())):
        if path[1].startswith("blk"):
            place = params
            for name in path[1:-1]:
                place = place.setdefault(name, {})
            place[path[-1]] = from_torch(path, state[NAMES[CLIP](path)])
    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, *SIZE, 3))
    prepared = np.asarray(as_clip(jnp.asarray(images)))
    theirs, _ = tower(torch.from_numpy(prepared.transpose(0, 3, 1, 2).copy()))
    scales = rng.standard_normal(theirs.shape)
    (theirs * torch.from_numpy(scales)).sum().backward()

    def weighed(params):
        x = images
        for number in (1, 2, 3, 4):
            block = BACKBONES["vit_b16_clip"](number, width=WIDTH, dtype=jnp.float64)
            x = block.apply({"params": params[f"blk{number}"]}, x, train=True)
        return (x[:, 0, 0] * scales).sum(), x

    found, features = jit(jax.grad(weighed, has_aux=True))(params)
    np.testing.assert_allclose(features[:, 0, 0], theirs.detach(), rtol=1e-9, atol=1e-9)
    tower.proj.grad = torch.zeros_like(tower.proj)
    gradients = by_ours({name: own.grad for name, own in tower.named_parameters()})
    gradients["cls_token"] = tower.class_embedding.grad.numpy()
    gradients["pos_embed"] = tower.positional_embedding.grad.numpy()[1:].reshape(*grid, -1)
    compared = 0
    for path, leaf in flatten({"params": found}).items():
        other = gradients[NAMES[CLIP](path)]
        gradient = to_torch(path, leaf).reshape(other.shape)
        assert np.abs(gradient - other).max() < 1e-8 * np.abs(other).max() + 1e-12, path
        compared += 1
    assert compared == len(gradients) - 4  # the projection, and the neck


@pytest.fixture(scope="module")
def state():
    return state_of(make_tower())


def test_settings_are_told_by_the_names(state, tmp_path):
    path = write(tmp_path / "clip.safetensors", state | TEXT)
    config = given_config(path)
    assert (config.model.backbone, config.model.embedding_dim) == ("vit_b16_clip", PROJECTED)
    assert (config.model.neck, config.model.width) == ("bnneck", WIDTH)
    reid = state_of(make_tower("vit_b16_clipreid", (256, 128)), "module.image_encoder.")
    config = given_config(write(tmp_path / "reid.safetensors", reid | REID))
    assert config.model.backbone == "vit_b16_clipreid"
    assert config.model.embedding_dim == CHANNELS + PROJECTED
    tall = state_of(make_tower("vit_b16_clipreid_stride12", (384, 128)), "image_encoder.")
    config = given_config(write(tmp_path / "tall.safetensors", tall))
    assert config.model.backbone == "vit_b16_clipreid_stride12"
    assert tuple(config.data.image_size) == (384, 128)


def test_load_says_what_is_taken(state, tmp_path, capsys):
    path = write(tmp_path / "clip.safetensors", state)
    model = batnet_jax.load(path, image_size=SIZE)
    said = capsys.readouterr().err
    assert "CLIP image tower, does not say" in said
    assert "CLIP's mean and deviation are assumed" in said
    assert "it has no head" not in said
    images = [np.zeros((64, 32, 3), np.uint8)]
    assert model.embed(images, progress=False).shape == (1, PROJECTED)


def test_a_tower_without_a_projection_gives_the_class_token(state, tmp_path, capsys):
    bare = {name: t for name, t in state.items() if name != "visual.proj"}
    config = given_config(path := write(tmp_path / "clip.safetensors", bare))
    assert config.model.embedding_dim == 0
    batnet_jax.load(path, image_size=SIZE)
    assert "it has no head: features are the class token" in capsys.readouterr().err


def test_another_head_takes_the_backbone(state, tmp_path):
    path = write(tmp_path / "clip.safetensors", state)
    config = make_config(embedding_dim=0)
    _, report = weights.initialise(config, draw_variables_of(config), path)
    assert dict(report.skipped) == {"visual.proj": "the network has another head"}


def test_timms_names_of_the_same_tower(state, tmp_path):
    tower = {name.removeprefix("visual."): (name, t) for name, t in state.items()}
    timm = {name: t for name, (_, t) in as_timm(tower, clipreid=False).items()}
    timm = {name: t for name, t in timm.items() if not name.startswith(("neck.", "proj."))}
    timm |= {"head.weight": state["visual.proj"].T, "head.bias": np.zeros(PROJECTED, "f4")}
    path = write(tmp_path / "timm.safetensors", timm)
    config = make_config(embedding_dim=0)
    assert given_config(path).model.backbone == "vit_b16_clip"
    filled, report = weights.initialise(config, draw_variables_of(config), path)
    other = write(tmp_path / "clip.safetensors", state)
    wanted, _ = weights.initialise(config, draw_variables_of(config), other)
    jax.tree.map(np.testing.assert_array_equal, filled["params"], wanted["params"])
    assert dict(report.skipped) == dict.fromkeys(
        ("head.weight", "head.bias"), "classifier, or CLIP's projection"
    )


def test_half_precision_is_added_in_float32(state, tmp_path):
    half = {name: tensor.astype(np.float16) for name, tensor in state.items()}
    path = write(tmp_path / "half.safetensors", half)
    token = open_source(make_config(), path).tensors["cls_token"][1]
    parts = half["visual.class_embedding"], half["visual.positional_embedding"][0]
    np.testing.assert_array_equal(token, parts[0].astype("f4") + parts[1].astype("f4"))


def dropped(state, *names):
    return {name: t for name, t in state.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: dropped(s, "visual.ln_post.bias"), r"1 missing \(norm.bias"),
        (lambda s: dropped(s, "visual.ln_pre.weight"), "is none of"),
        (lambda s: s | {"visual.more": s["visual.proj"]}, r"unknown names \(visual.more"),
        (lambda s: s | {"visual.cls_token": s["visual.proj"]}, r"unknown names \(visual.cls_token"),
        (lambda s: s | {"visual.proj.weight": s["visual.proj"]}, "unknown names"),
        (lambda s: s | {"visual.proj": np.ones(3, "f4")}, r"unknown names \(visual.proj"),
        (lambda s: s | {"visual.proj": s["visual.proj"] * np.nan}, "not finite"),
        (lambda s: s | {"visual.proj": np.ones((48, 20), "i4")}, "of type int32"),
        (lambda s: s | {"visual.class_embedding": np.ones((), "f4")}, "different widths"),
        (lambda s: s | {"visual.class_embedding": np.ones(7, "f4")}, "different widths"),
        (lambda s: s | {"visual.conv1.weight": np.ones((), "f4")}, "patches of 1 x 1 pixels"),
        (lambda s: s | {"visual.positional_embedding": np.ones((12, 48), "f4")}, "are not a grid"),
        (lambda s: s | {"visual.conv1.weight": np.ones((48, 3, 32, 32), "f4")}, "32 x 32 pixels"),
        (
            lambda s: s | {"visual.transformer.resblocks.12.ln_1.bias": np.ones(48, "f4")},
            r"unknown names \(visual.transformer.resblocks.12.ln_1.bias",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(state, tmp_path, change, message):
    path = write(tmp_path / "clip.safetensors", change(state))
    config = make_config()
    with pytest.raises(UserError, match=message) as caught:
        weights.initialise(config, draw_variables_of(config), path)
    assert "\n" not in str(caught.value)
    assert load_file(path)


@pytest.mark.filterwarnings("ignore")  # PyTorch's, of TorchScript
def test_a_program_is_refused(tmp_path):
    """As OpenAI's own file is one."""
    torch = needs.package("torch")
    path = tmp_path / "ViT-B-16.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path)
    with pytest.raises(UserError, match=r"save its state dict alone, or as \.safetensors"):
        open_source(make_config(), path)
