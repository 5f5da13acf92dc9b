"""Weights of others: names, permutation, reports, safe reading, parity with PyTorch.

Parity is of float32 forward passes in evaluation mode, which two correct implementations sum in
another order: 1e-4, on features of unit length and on maps of size 1. What only moves is equal.
"""

import argparse
import os
import struct
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast import jit
from safetensors.numpy import load_file, save_file

from batnet_jax import checkpoint, pretrained
from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.models import BATNet
from batnet_jax.models.bi_attention import bilinear
from batnet_jax.models.googlenet import BACKBONES, Block, Stem
from batnet_jax.models.initial import draw_variables
from batnet_jax.pretrained import commands
from batnet_jax.pretrained.convert import fill, flatten, from_torch, to_torch
from batnet_jax.pretrained.names import (
    BATNET,
    bilinear_order,
    canonical,
    published_name,
    torchvision_name,
)
from batnet_jax.pretrained.reading import read_tensors
from batnet_jax.pretrained.sources import check_agrees, open_source
from batnet_jax.restoring import restore_model
from batnet_jax.steps import make_model

SIZE = (64, 32)
IDENTITIES = 5
close = partial(np.testing.assert_allclose, rtol=0, atol=1e-4)


def make_config(**model):
    """The published network, narrow and with two parts: what takes time is the number of layers."""
    config = default_config()
    config.data.image_size = SIZE
    small = {"width": 1 / 8, "num_parts": 2, "part_sampling": "published", "embedding_dim": 32}
    config.model.update(small | model)
    return config


def draw(config, seed=0):
    """Random variables, the constants among them too."""
    model = make_model(config, IDENTITIES, axis_name=None)
    rng = np.random.default_rng(seed)

    def noise(leaf):
        return (leaf + 0.2 * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree.map(noise, draw_variables(model, SIZE, seed))


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


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
    """The variables as a file under the published names, and its tensors; no PyTorch needed."""
    path = tmp_path_factory.mktemp("published") / "batnet.safetensors"
    pretrained.export_torch(variables, path)
    return path, load_file(path)


def write(path, tensors):
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, path)
    return path


# Names and order.


def test_order_of_the_pairs_of_three_channels_by_hand():
    # Ours 00 01 02 11 12 22; theirs, by diagonals, 00 11 22, 10 21, 20.
    assert bilinear_order(3).tolist() == [0, 3, 5, 1, 4, 2]


@pytest.mark.parametrize("channels", [1, 2, 7, 15])
def test_order_is_a_permutation_that_makes_bi_equal(channels):
    x = np.random.default_rng(channels).standard_normal(channels).astype(np.float32)
    product = np.outer(x, x)
    diagonals = np.concatenate([np.diagonal(product, -i) for i in range(channels)])
    np.testing.assert_array_equal(bilinear(jnp.asarray(x)), diagonals[bilinear_order(channels)])


def test_every_variable_has_a_published_name_of_its_own(variables):
    paths = list(flatten(variables))
    names = [published_name(path) for path in paths]
    assert None not in names
    assert len(set(names)) == len(names)
    assert all(canonical(name) == name for name in names)
    assert {  # from the issue
        "features.conv.conv1.0.weight",
        "features.inception1.inception_3a.conv3_1.0.weight",
        "features.inception2_local.1.inception_4e.conv_max_1.1.running_var",
        "features.bilinearatt_global.dimReduceLayer3.conv.bn.bias",
        "features.norm1_2.running_mean",
        "fc_global.1.weight",
        "fc_local.2.running_var",
        "classifier_local.1.bias",
    } <= set(names)
    backbone = [torchvision_name(path) for path in paths]
    assert {"conv1.conv.weight", "inception5b.branch4.1.bn.running_mean"} <= set(backbone)
    assert [path[1] for path, name in zip(paths, backbone, strict=True) if name is None] == [
        path[1] for path in paths if not path[1].startswith("blk")
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("module.features.conv.conv1.0.bias", "features.conv.conv1.0.bias"),
        ("conv.conv3.1.running_var", "features.conv.conv3.1.running_var"),
        ("conv2.0.weight", "features.conv.conv2.0.weight"),
        ("inception_4c.conv1.0.weight", "features.inception2.inception_4c.conv1.0.weight"),
        ("inception3.inception_5a.conv5_5.1.bias",
         "features.inception3.inception_5a.conv5_5.1.bias"),
        ("features.inception2_local.3.inception_4a.conv1.0.bias",
         "features.inception2_local.3.inception_4a.conv1.0.bias"),
        ("conv1.conv.weight", "conv1.conv.weight"),
        ("module.inception3a.branch1.conv.weight", "inception3a.branch1.conv.weight"),
    ],
)  # fmt: skip
def test_the_forms_of_a_name(name, expected):
    assert canonical(name) == expected


def test_tensors_come_back_from_their_pytorch_form(variables):
    for path, value in flatten(variables).items():
        there = to_torch(path, value)
        assert there.flags.c_contiguous
        np.testing.assert_array_equal(from_torch(path, there), value)


# Import: everything said, nothing half done.


@pytest.fixture(scope="module")
def imported(config, published, tmp_path_factory):
    """A workdir made of the file, whose names begin with `module.`, and the report."""
    folder = tmp_path_factory.mktemp("imported")
    counts = ("features.conv.conv1.1", "features.norm1_2")
    extra = {f"{name}.num_batches_tracked": np.asarray(7) for name in counts}
    tensors = {f"module.{name}": t for name, t in (published[1] | extra).items()}
    source = write(folder / "batnet.safetensors", tensors)
    return folder / "run", pretrained.run_import(config, source, folder / "run")


def test_import_makes_a_checkpoint(config, variables, published, imported):
    workdir, _ = imported
    model, restored = restore_model(config, workdir, checkpoint.choose_step(workdir, 0))
    assert_same(restored, variables)
    assert isinstance(model, BATNet)
    run = checkpoint.restore_run(workdir, 0)
    assert [who[:2] for who in run["identities"]] == [["imported", k] for k in range(IDENTITIES)]
    with pytest.raises(UserError, match="already holds a checkpoint"):
        pretrained.run_import(config, published[0], workdir)


def test_import_has_a_line_for_every_tensor(variables, imported):
    workdir, report = imported
    lines = (workdir / "import.txt").read_text().splitlines()
    count = len(flatten(variables))
    assert len(lines) == 1 + count + 6 + 2
    assert lines[0] == f"# {report.summary()}"
    assert report.summary().endswith(
        f"{count} tensors loaded, 8 skipped (2 PyTorch's count of batches, 6 unused part "
        "predictor), 0 left at their initial values"
    )
    assert {
        "loaded params/bi_attention/local/conv/kernel <- "
        "module.features.bilinearatt_global.dimReduceLayer2.conv.conv.weight "
        "(oihw to hwio, Bi() permuted)",
        "loaded params/part_head/bn/scale <- module.fc_local.2.weight (as it is)",
        "skipped module.features.part_predictor1.fc.bias (unused part predictor)",
    } <= set(lines)


FAULTS = {
    "missing": (lambda t: t.pop("features.norm1_1.bias"), r"1 missing \(features.norm1_1.bias\)"),
    "shape": (
        lambda t: t.update({"fc_global.2.bias": np.zeros(31, np.float32)}),
        r"1 unfit \(fc_global.2.bias is \(31,\), not \(32,\)\)",
    ),
    "unknown": (
        lambda t: t.update({"features.extra.weight": np.zeros(3, np.float32)}),
        r"1 of unknown names \(features.extra.weight\)",
    ),
    "a stream's": (
        lambda t: [t.pop(name) for name in list(t) if ".inception3_local.1." in name],
        r"72 missing \(.*; \.\.\.\)",
    ),
    "not finite": (
        lambda t: t.update({"fc_global.2.bias": np.full(32, np.nan, np.float32)}),
        "fc_global.2.bias has values that are not finite",
    ),
    "type": (
        lambda t: t.update({"fc_global.2.bias": np.zeros(32, np.int64)}),
        "fc_global.2.bias is of type int64",
    ),
    "twice": (
        lambda t: t.update({"inception_3a.conv1.0.bias": np.zeros(8, np.float32)}),
        "twice",
    ),
    "nothing known": (lambda t: [t.pop(n) for n in list(t) if "classifier" not in n], "none of"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_does_not_fit_is_refused_whole(config, fresh, published, tmp_path, fault):
    spoil, message = FAULTS[fault]
    tensors = dict(published[1])
    spoil(tensors)
    source = write(tmp_path / "bad.safetensors", tensors)
    with pytest.raises(UserError, match=message) as caught:
        fill(fresh, open_source(config, source), keep_classifiers=True)
    assert "\n" not in str(caught.value)


def test_a_refused_import_writes_nothing(config, published, tmp_path):
    tensors = dict(published[1])
    del tensors["fc_local.1.bias"]
    source = write(tmp_path / "bad.safetensors", tensors)
    with pytest.raises(UserError, match="1 missing"):
        pretrained.run_import(config, source, tmp_path / "run")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ({"reduction": 8}, "--config.model.reduction=4"),
        ({"attention": "plain"}, "--config.model.attention=aia"),
        ({"num_parts": 4}, "--config.model.num_parts=2"),
        ({"width": 1.0}, "--config.model.width=0.125"),
        ({"embedding_dim": 64}, "--config.model.embedding_dim=32"),
        ({"position": "p1"}, "--config.model.position=p2"),
        ({"backbone": "torchvision"}, "--config.model.backbone=published"),
        ({"part_sampling": "paper", "reduction": 3},
         "--config.model.part_sampling=published --config.model.reduction=4"),
    ],
    ids=str,
)  # fmt: skip
def test_the_flags_to_pass_are_named(published, tmp_path, model, flags):
    with pytest.raises(UserError) as caught:
        pretrained.run_import(make_config(**model), published[0], tmp_path / "run")
    assert str(caught.value).endswith(f"pass {flags}")
    assert not (tmp_path / "run").exists()


def test_paths_that_cannot_be_imported(config, tmp_path):
    (tmp_path / "text.safetensors").write_text("no")
    header = b'{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'
    (tmp_path / "odd.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"0")
    cases = {
        "missing.pth": "is not a file",
        "text.safetensors": "not a readable .safetensors",
        "odd.safetensors": "F8_E4M3",
        ".": "is a folder",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            pretrained.run_import(config, tmp_path / name, tmp_path / "run")
    with pytest.raises(UserError, match="is a file"):
        pretrained.run_import(config, tmp_path / "a", tmp_path / "text.safetensors")


def test_without_pytorch_the_message_says_what_to_do(published, tmp_path, monkeypatch, variables):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pth").write_bytes(b"")
    wanted = r"reading .pth needs PyTorch: pip install 'torch>=2.6', or give a .safetensors"
    with pytest.raises(UserError, match=wanted):
        read_tensors(tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"writing .pth needs PyTorch"):
        pretrained.export_torch(variables, tmp_path / "b.pth")
    assert not (tmp_path / "b.pth").exists()
    assert read_tensors(published[0]).keys() == published[1].keys()


def test_half_precision_is_widened(config, fresh, published, tmp_path):
    halves = {name: t.astype(np.float16) for name, t in published[1].items()}
    bfloats = {name: t.astype(jnp.bfloat16) for name, t in published[1].items()}
    for tensors, dtype in ((halves, "float16"), (bfloats, "bfloat16")):
        source = open_source(config, write(tmp_path / f"{dtype}.safetensors", tensors))
        filled, report = fill(fresh, source, keep_classifiers=True)
        kernel = filled["params"]["appearance_head"]["embedding"]["kernel"]
        assert kernel.dtype == np.float32
        np.testing.assert_array_equal(kernel, tensors["fc_global.1.weight"].T.astype(np.float32))
        assert all(done.startswith(f"{dtype} to float32") for _, _, done in report.loaded)


# Backbones.


def backbone_tensors(variables, name_of, form=lambda name: name):
    """The backbone of our variables under other names."""
    named = {name_of(path): to_torch(path, v) for path, v in flatten(variables).items()
             if path[1].startswith("blk")}  # fmt: skip
    return {form(name): tensor for name, tensor in named.items()}


def drop_modules(name):
    """As the published code looks for them in its ImageNet file."""
    return name.removeprefix("features.").split(".", 1)[1]


def assert_backbone_loaded(filled, wanted, fresh):
    """The backbone is `wanted`'s, the streams are its copies, the rest is as it was."""
    for kind in ("params", "batch_stats"):
        for name, value in filled[kind].items():
            if name.startswith("blk"):
                assert_same(value, wanted[kind][name])
            elif name == "part_streams":
                for stream, blocks in value.items():
                    assert_same(blocks, wanted[kind][stream.split("_")[1]])
            else:
                assert_same(value, fresh[kind][name])


@pytest.mark.parametrize("form", [drop_modules, lambda n: n.removeprefix("features.")])
def test_the_published_imagenet_file(config, variables, fresh, tmp_path, form):
    tensors = backbone_tensors(variables, published_name, form)
    classifier = {"fc.weight": np.zeros((1000, 128), np.float32)}
    path = write(tmp_path / "backbone.safetensors", tensors | classifier)
    filled, report = pretrained.initialise(config, fresh, path)
    assert_backbone_loaded(filled, variables, fresh)
    assert report.skipped == [("fc.weight", "not of the backbone")]
    assert ("params/bi_attention/embed/bn/bias", "the source has no bi_attention") in report.initial
    copied = [done for ours, _, done in report.loaded if "part_streams" in ours]
    assert all(done.startswith("copied from blk") for done in copied)
    assert len(report.loaded) + len(report.initial) == len(flatten(fresh))
    spoilt = {n: t for n, t in tensors.items() if "5b.conv5_5.1" not in n}
    with pytest.raises(UserError, match="12 missing"):  # in the backbone and in two streams
        pretrained.initialise(config, fresh, write(tmp_path / "b.safetensors", spoilt))
    stranger = tensors | {"inception_6a.conv1.0.bias": np.zeros(1, np.float32)}
    with pytest.raises(UserError, match="inception_6a"):
        pretrained.initialise(config, fresh, write(tmp_path / "c.safetensors", stranger))


def test_import_of_a_backbone_leaves_the_rest_at_its_initial_values(variables, tmp_path):
    config = make_config(num_parts=1, attention="none")
    tensors = backbone_tensors(variables, published_name, drop_modules)
    source = write(tmp_path / "backbone.safetensors", tensors)
    report = pretrained.run_import(config, source, tmp_path / "run")
    assert {name.split("/")[1] for name, _ in report.initial} == {"appearance_head", "part_head"}
    _, restored = restore_model(config, tmp_path / "run", 0)
    initial = draw_variables(make_model(config, 1, axis_name=None), SIZE, config.seed)
    assert_backbone_loaded(restored, variables, initial)


def test_torchvision_names_and_what_is_skipped(tmp_path):
    config = make_config(backbone="torchvision", num_parts=1)
    variables, fresh = draw(config), draw(config, seed=1)
    assert "bias" not in variables["params"]["blk1"]["conv1"]["conv"]
    tensors = backbone_tensors(variables, torchvision_name)
    extra = ("aux1.conv.conv.weight", "aux2.fc2.bias", "fc.weight", "conv1.bn.num_batches_tracked")
    others = {name: np.zeros(3, np.float32) for name in extra}
    path = write(tmp_path / "googlenet.safetensors", tensors | others)
    filled, report = pretrained.initialise(config, fresh, path)
    assert_backbone_loaded(filled, variables, fresh)
    assert sorted(report.skipped) == [
        ("aux1.conv.conv.weight", "auxiliary classifier"),
        ("aux2.fc2.bias", "auxiliary classifier"),
        ("conv1.bn.num_batches_tracked", "PyTorch's count of batches"),
        ("fc.weight", "ImageNet classifier"),
    ]
    with pytest.raises(UserError, match=r"pass --config.model.backbone=torchvision$"):
        pretrained.initialise(make_config(num_parts=1), fresh, path)
    with pytest.raises(UserError, match="backbone='torchvision' has no published names"):
        pretrained.run_export(config, variables, tmp_path / "a.safetensors")


# Starting to train from a source.


def test_classifiers_are_made_for_the_new_identities(config, variables, fresh, published):
    filled, report = pretrained.initialise(config, fresh, published[0])
    flat, mine, theirs = flatten(filled), flatten(fresh), flatten(variables)
    for path, value in flat.items():
        expected = mine if path[-2] == "classifier" else theirs
        np.testing.assert_array_equal(value, expected[path])
    assert {why for _, why in report.initial} == {"made for the new identities"}
    assert len(report.initial) == 4


def test_a_source_may_have_more_or_less_than_the_network(variables, fresh, published):
    bare = make_config(num_parts=0, attention="none")
    removed = ("bi_attention", "part_streams", "part_head")
    small = {
        kind: {name: value for name, value in tree.items() if name not in removed}
        for kind, tree in fresh.items()
    }
    filled, report = pretrained.initialise(bare, small, published[0])
    assert_same(filled["params"]["blk4"], variables["params"]["blk4"])
    reasons = {why for _, why in report.skipped}
    assert {"the network has no part streams", "the network has no Bi-attention"} <= reasons
    # A source of other shapes is refused by its fields, before its tensors are compared.
    with pytest.raises(UserError, match=r"pass --config.model.reduction=4$"):
        pretrained.initialise(make_config(reduction=8), fresh, published[0])
    # Weights serve any part sampling.
    source = open_source(make_config(part_sampling="paper"), published[0])
    check_agrees(source, make_config(part_sampling="paper").model, whole=False)
    assert source.format == BATNET


def test_a_workdir_is_a_source(config, variables, fresh, imported, monkeypatch):
    workdir, _ = imported
    opened = open_source(config, workdir)
    monkeypatch.setattr(commands, "open_source", lambda *_: opened)  # once is slow enough
    identities = checkpoint.restore_run(workdir, 0)["identities"]
    same, report = pretrained.initialise(config, fresh, workdir, identities=identities)
    assert_same(same, variables)
    assert (report.format, report.initial) == ("batnet_jax workdir", [])
    others, report = pretrained.initialise(config, fresh, workdir, identities=identities[1:])
    assert_same(others["params"]["blk4"], variables["params"]["blk4"])
    head = others["params"]["part_head"]
    assert_same(head["classifier"], fresh["params"]["part_head"]["classifier"])
    assert len(report.initial) == len(report.skipped) == 4


def test_an_idle_part_head_is_not_taken(variables, fresh, config, tmp_path, published):
    """As in the published code's checkpoints of the appearance extractor with attention alone."""
    tensors = {
        name: t for name, t in published[1].items() if "_local." not in name or "fc_" in name
    }
    path = write(tmp_path / "appearance.safetensors", tensors)
    filled, report = pretrained.initialise(config, fresh, path)
    assert_same(filled["params"]["part_head"], fresh["params"]["part_head"])
    assert_same(filled["params"]["part_streams"]["stream1_blk3"], variables["params"]["blk3"])
    assert ("fc_local.1.weight", "the source has no part streams") in report.skipped
    assert_same(filled["params"]["bi_attention"], variables["params"]["bi_attention"])


# Export.


def test_export_refuses_what_the_published_names_cannot_say(config, variables, tmp_path):
    with pytest.raises(UserError, match=r"\.pth, \.pth\.tar, \.safetensors"):
        pretrained.run_export(config, variables, tmp_path / "a.txt")
    strange = {  # at p1; a linear kernel; at several positions
        "embed": ("bi_attention", {"embed": {"conv": {"kernel": np.zeros((1, 1, 24, 15))}}}),
        "local": ("bi_attention", {"local": {"conv": {"kernel": np.zeros((1, 1, 15, 60))}}}),
        "several": ("bi_attention_p2", {}),
    }
    for name, layers in strange.values():
        attention = variables["params"]["bi_attention"] | layers
        rest = {k: v for k, v in variables["params"].items() if k != "bi_attention"}
        with pytest.raises(UserError, match=r"the published (names have one|code has no)"):
            pretrained.export_torch(
                {"params": rest | {name: attention}}, tmp_path / "a.safetensors"
            )
    assert list(tmp_path.iterdir()) == []


# With PyTorch.


@pytest.fixture(scope="module")
def oracle(config):
    """The published network, ours written in PyTorch, of the config's size."""
    pytest.importorskip("torch")
    import torch_batnet

    network = torch_batnet.TorchBATNet(
        IDENTITIES,
        reduction=config.model.reduction,
        parts=config.model.num_parts,
        width=config.model.width,
        embedding=config.model.embedding_dim,
    )
    return torch_batnet.randomise(network, seed=0)


def features_of(model, variables, images):
    outputs = jit(model.apply)(variables, images)
    halves = [f / np.linalg.norm(f, axis=1, keepdims=True) for f in outputs["features"].values()]
    return np.concatenate(halves, axis=1)


def torch_features(network, images):
    import torch

    with torch.no_grad():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def test_bi_in_the_published_order_equals_pytorchs_exactly():
    torch = pytest.importorskip("torch")
    import torch_batnet

    x = np.random.default_rng(0).standard_normal((2, 4, 3, 7)).astype(np.float32)
    theirs = torch_batnet.published_bilinear(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    theirs = theirs.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(bilinear(jnp.asarray(x)), theirs[..., bilinear_order(7)])


def test_features_equal_pytorchs(config, fresh, oracle, tmp_path):
    import torch

    torch.save(oracle.state_dict(), tmp_path / "batnet.pth")
    source = open_source(config, tmp_path / "batnet.pth")
    variables, _ = fill(fresh, source, keep_classifiers=True)
    model = make_model(config, IDENTITIES, axis_name=None)
    images = np.random.default_rng(0).standard_normal((3, 128, 64, 3)).astype(np.float32)
    theirs = torch_features(oracle, images)
    assert np.abs(theirs[0] - theirs[1]).max() > 0.01  # the features depend on the image
    close(features_of(model, variables, images), theirs)


def test_every_way_of_saving_gives_the_same(config, fresh, oracle, tmp_path):
    import torch

    state = oracle.state_dict()
    module = {f"module.{name}": tensor for name, tensor in state.items()}
    bare = {name: t for name, t in state.items() if "num_batches" not in name}
    no_predictors = {name: t for name, t in bare.items() if "part_predictor" not in name}
    around = {"epoch": 300, "rank1": np.float32(0.9), "best_rank1": np.float64(0.9),
              "args": argparse.Namespace(height=256, gpu_devices="0"),
              "optimizer": torch.optim.Adam(oracle.parameters()).state_dict()}  # fmt: skip
    legacy = {"_use_new_zipfile_serialization": False}
    ways = {
        "zip.pth": (state, {}),
        "legacy.pth.tar": ({"state_dict": state, **around}, legacy),
        "wrapped.pth.tar": ({"state_dict": module, **around}, {}),
        "bare.pth": (bare, {}),
        "no_predictors.pth": (no_predictors, legacy),
    }
    loaded = []
    for name, (content, options) in ways.items():
        torch.save(content, tmp_path / name, **options)
        source = open_source(config, tmp_path / name)
        check_agrees(source, config.model, whole=True)
        loaded.append(fill(fresh, source, keep_classifiers=True)[0])
    for other in loaded[1:]:
        assert_same(loaded[0], other)
    half = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
    bfloat = {name: t.bfloat16() if t.is_floating_point() else t for name, t in state.items()}
    for tensors, tolerance in ((half, 1e-3), (bfloat, 1e-2)):  # 2^-11, 2^-8 of values of 3
        torch.save(tensors, tmp_path / "half.pth")
        filled, _ = fill(fresh, open_source(config, tmp_path / "half.pth"), keep_classifiers=True)
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=tolerance, atol=1e-7), filled, loaded[0]
        )


def test_a_file_made_by_python_2_can_be_read(tmp_path):
    torch = pytest.importorskip("torch")
    import pickle

    # NumPy's scalars were byte strings then, of any bytes: here one that is not UTF-8.
    stream = torch.serialization.MAGIC_NUMBER
    head = [stream, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    number = (
        b"\x80\x02}U\x05rank1cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02f8K\x00K\x01\x87R"
    )
    number += b"U\x08\xff\xfe\xfd\xfc\xfb\xfa\xec\x3f\x86Rs."
    parts = [pickle.dumps(x, 2) for x in head] + [number, pickle.dumps([], 2)]
    (tmp_path / "old.pth.tar").write_bytes(b"".join(parts))
    with pytest.raises(UserError, match="holds no state dict"):  # it was read, and has none
        read_tensors(tmp_path / "old.pth.tar")


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused(config, tmp_path, zipped):
    torch = pytest.importorskip("torch")
    marker = tmp_path / "marker"
    content = {"state_dict": {"a": torch.ones(2)}, "args": Malicious(marker)}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="run code") as caught:
        pretrained.run_import(config, tmp_path / "evil.pth", tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    assert not (tmp_path / "run").exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert marker.exists()  # the file is what the test says it is


def test_unreadable_pytorch_files(tmp_path):
    torch = pytest.importorskip("torch")
    (tmp_path / "text.pth").write_text("no tensors here")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    torch.save({"a": {"b": torch.ones(2)}}, tmp_path / "nested.pth")
    cases = {"text": "damaged|not a readable", "empty": "not a readable"}
    cases |= {"list": "no state dict", "nested": "no state dict"}
    for name, message in cases.items():
        with pytest.raises(UserError, match=message) as caught:
            read_tensors(tmp_path / f"{name}.pth")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".safetensors"])
def test_round_trips_are_equal_to_the_bit(config, variables, fresh, oracle, tmp_path, suffix):
    import torch

    ours = tmp_path / f"ours{suffix}"
    pretrained.run_export(config, variables, ours)
    back, _ = fill(fresh, open_source(config, ours), keep_classifiers=True)
    assert_same(back, variables)

    state = oracle.state_dict()
    torch.save(state, tmp_path / "theirs.pth")
    source = open_source(config, tmp_path / "theirs.pth")
    imported, _ = fill(fresh, source, keep_classifiers=True)
    pretrained.export_torch(imported, tmp_path / f"again{suffix}")
    again = read_tensors(tmp_path / f"again{suffix}")
    assert again.keys() == {name for name in state if "num_batches" not in name}
    for name, tensor in again.items():
        np.testing.assert_array_equal(tensor, state[name].numpy())
    loaded = oracle.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in again.items()})
    assert loaded.missing_keys == loaded.unexpected_keys == []


def run_backbone(variables, images, width, backbone, last):
    """The maps p1..p4 of our backbone, alone, up to Blk `last`."""
    shared = {"width": width, "backbone": backbone}
    blocks = {"blk1": Stem(**shared), **{f"blk{n}": Block(n, **shared) for n in range(2, last + 1)}}

    def run(variables, x):
        maps = []
        for name, block in blocks.items():
            own = {kind: tree[name] for kind, tree in variables.items()}
            x = block.apply(own, x, train=False)
            maps.append(x)
        return maps

    return jit(run)(variables, images)


@pytest.mark.parametrize("transform_input", [True, False])
def test_torchvisions_backbone_equals_pytorchs(tmp_path, transform_input):
    torch = pytest.importorskip("torch")
    import torch_batnet
    import torch_googlenet

    backbone = "torchvision" if transform_input else "torchvision_raw"
    network = torch_googlenet.TorchGoogLeNet(
        aux=transform_input, transform_input=transform_input, width=1 / 8
    )
    torch_batnet.randomise(network, seed=0)
    torch.save(network.state_dict(), tmp_path / "googlenet.pth")
    config = make_config(backbone=backbone, num_parts=0, attention="none")
    filled, report = pretrained.initialise(config, draw(config), tmp_path / "googlenet.pth")
    assert ("aux1.fc1.weight", "auxiliary classifier") in report.skipped or not transform_input
    images = np.random.default_rng(0).standard_normal((2, 128, 64, 3)).astype(np.float32)
    last = 4 if transform_input else 1  # behind Blk1 the two are the same
    ours = run_backbone(filled, images, 1 / 8, backbone, last)
    with torch.no_grad():
        theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    for mine, other in zip(ours, theirs[:last], strict=True):
        close(mine, other.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_has_the_same_positions(backbone):
    x = jax.ShapeDtypeStruct((1, 256, 128, 3), jnp.float32)
    blocks = [Stem(backbone=backbone), *(Block(n, backbone=backbone) for n in (2, 3, 4))]
    shapes = []
    for block in blocks:
        x, _ = jax.eval_shape(partial(block.init_with_output, train=False), jax.random.key(0), x)
        shapes.append(x.shape)
    assert shapes == [(1, 32, 16, 192), (1, 16, 8, 480), (1, 8, 4, 832), (1, 8, 4, 1024)]


@pytest.mark.slow
@pytest.mark.parametrize(("attention", "parts"), [("aia", 4), ("plain", 0), ("none", 4)])
def test_features_equal_pytorchs_at_full_width(tmp_path, attention, parts):
    torch = pytest.importorskip("torch")
    import torch_batnet

    config = default_config()
    config.model.update(
        {"attention": attention, "num_parts": parts, "part_sampling": "published", "reduction": 16}
    )
    network = torch_batnet.TorchBATNet(50, attention=attention, parts=parts)
    torch_batnet.randomise(network, seed=0)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "batnet.pth.tar")
    pretrained.run_import(config, tmp_path / "batnet.pth.tar", tmp_path / "run")
    model, variables = restore_model(config, tmp_path / "run", 0)
    images = np.random.default_rng(0).standard_normal((2, 256, 128, 3)).astype(np.float32)
    close(features_of(model, variables, images), torch_features(network, images))


def test_impossible_shapes(published, tmp_path):
    _, tensors = published
    kernel = "features.bilinearatt_global.dimReduceLayer1.conv.conv.weight"
    for wrong in (np.zeros(()), np.zeros(3), np.zeros((0, 4, 1, 1))):
        path = write(tmp_path / "w.safetensors", tensors | {kernel: wrong.astype(np.float32)})
        with pytest.raises(UserError, match="has tensors of impossible shapes"):
            open_source(make_config(), path)


def test_export_says_what_will_differ(config, variables, tmp_path, capsys):
    config = make_config(part_sampling="paper")
    pretrained.run_export(config, variables, tmp_path / "w.safetensors")
    assert "model.part_sampling=paper" in capsys.readouterr().out
    pretrained.run_export(make_config(), variables, tmp_path / "w.safetensors")
    assert "part_sampling" not in capsys.readouterr().out
