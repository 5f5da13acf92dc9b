"""The list of weights that can be read: one source for the terminal, the documents and the code."""

from fnmatch import fnmatchcase

import pytest
from support.paths import ROOT
from support.run_main import call_main

from batnet_jax.commands import weights
from batnet_jax.commands.known_weights import FAMILIES, FILES
from batnet_jax.config import default_config
from batnet_jax.models import BACKBONES, preprocess, vit
from batnet_jax.models.googlenet import BACKBONES as GOOGLENETS
from batnet_jax.weights.names import FORMATS, guess_format

OTHERS = {  # tensors that a file has beside the one that shows its format
    "torchvision resnet50": {"bn1.weight"},
    "IBN-Net resnet50_ibn_a": {"bn1.weight", "layer1.0.conv3.weight"},
    "FastReID resnet50": {"backbone.bn1.weight"},
    "Torchreid osnet_ibn": {"conv2.0.conv2a.conv1.weight"},
    "timm vision transformer": {"blocks.0.attn.qkv.weight"},
    "CLIP image tower": {
        "class_embedding",
        "ln_pre.weight",
        "transformer.resblocks.0.attn.in_proj_weight",
    },
}


def backbones_of(family):
    return {name for name in BACKBONES for p in family.backbones if fnmatchcase(name, p)}


def test_every_format_and_every_backbone_is_listed():
    assert {own.format for own in FAMILIES} == set(FORMATS)
    listed = {name for own in FAMILIES for name in backbones_of(own)}
    assert listed == set(BACKBONES) - {"toy"}  # of other tests
    for own in FAMILIES:
        for pattern in own.backbones:
            assert any(fnmatchcase(name, pattern) for name in BACKBONES), pattern


@pytest.mark.parametrize("family", FAMILIES, ids=lambda own: own.name)
def test_the_tensor_shows_the_format(family):
    names = {family.known_by} | OTHERS.get(family.format, set())
    assert guess_format(names) == family.format
    hidden = guess_format(names - {family.known_by})
    assert hidden != family.format or family.name == "DINOv2"  # by LayerScale


@pytest.mark.parametrize("family", FAMILIES, ids=lambda own: own.name)
def test_size_and_pixels_are_those_that_are_taken(family):
    assert family.images == tuple(default_config().data.image_size)
    for name in backbones_of(family) - {"torchvision_raw"}:  # for weights of other settings
        pixels = preprocess.IMAGENET
        if name in vit.BACKBONES:
            pixels = vit.BACKBONES[name].pixels
        elif name in GOOGLENETS and GOOGLENETS[name].rescale:
            pixels = preprocess.HALF
        assert family.pixels == pixels.removeprefix("pixels of "), name


def test_files_are_well_formed():
    assert len({own.name for own in FILES}) == len({own.sha256 for own in FILES}) == len(FILES)
    for own in FILES:
        assert own.url.startswith("https://")
        assert len(bytes.fromhex(own.sha256)) == 32
        assert own.sha256 == own.sha256.lower()
        assert "/main/" not in own.url  # a branch moves
        hint = own.url.rpartition("-")[2].removesuffix(".pth")
        assert len(hint) != 8 or own.sha256.startswith(hint)  # PyTorch's way to name files


def test_the_document_has_the_same_tables():
    page = (ROOT / "docs" / "weights.md").read_text()
    for table in weights.markdown():
        assert table in page, (
            "paste: python -c 'from batnet_jax.commands.weights import *; print(*markdown())'"
        )


def test_the_list_says_all(capsys):
    assert call_main("weights") == (0, "")
    said = capsys.readouterr().out
    for own in FAMILIES:
        assert all(cell in said for cell in weights.family_row(own))
    for own in FILES:
        assert own.name in said
        assert own.about in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("weights", "get"), "needs a NAME: one of osnet_x1_0_msmt17, "),
        (("weights", "get", "osnet_x1_0"), "does not know 'osnet_x1_0': did you mean osnet_x1_0"),
        (("weights", "get", "\udce9\n"), "does not know '\\udce9\\n': one of"),
        (("weights", "fetch"), "invalid choice: 'fetch'"),
        (("weights", "--to=x"), "--to is for batnet weights get NAME"),
        (("weights", "get", "dinov2_vits14", "--to=gs://b"), "is not a folder of this machine"),
        (("weights", "get", "dinov2_vits14", "more"), "unrecognized arguments: more"),
    ],
)
def test_mistakes(words, message):
    status, said = call_main(*words)
    assert (status, said.count("\n")) == (2, 1), said
    assert message in said
