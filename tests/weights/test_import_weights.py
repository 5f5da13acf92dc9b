"""Importing weights: names, the order of Bi(), reports, and files that are refused."""

import struct
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny_weights import IDENTITIES, assert_same, make_config, write
from support.tiny_weights import config as config
from support.tiny_weights import fresh as fresh
from support.tiny_weights import imported as imported
from support.tiny_weights import published as published
from support.tiny_weights import variables as variables

from batnet_jax.errors import UserError
from batnet_jax.export.published import to_bytes
from batnet_jax.inference.restore import restore_network
from batnet_jax.models import BATNet
from batnet_jax.models.bi_attention import bilinear
from batnet_jax.modes.import_weights import import_weights
from batnet_jax.weights.convert import flatten, from_torch, to_torch
from batnet_jax.weights.fill import fill
from batnet_jax.weights.names import bilinear_order, canonical, published_name, torchvision_name
from batnet_jax.weights.read_tensors import read_tensors
from batnet_jax.weights.sources import open_source
from batnet_jax.workdir import checkpoints

# Names and order.


def test_order_of_the_pairs_of_three_channels_by_hand():
    # Ours: 00 01 02 11 12 22; the published code's, by diagonals: 00 11 22, 10 21, 20.
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
    assert {  # names of the published PyTorch network
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


# Import: a complete report, and all or nothing.


def test_import_makes_a_checkpoint(config, variables, published, imported):
    workdir, _ = imported
    model, restored = restore_network(config, workdir, checkpoints.choose_step(workdir, 0))
    assert_same(restored, variables)
    assert isinstance(model, BATNet)
    run = checkpoints.restore_metadata(workdir, 0)
    assert [who[:2] for who in run["identities"]] == [["imported", k] for k in range(IDENTITIES)]
    with pytest.raises(UserError, match="already holds a checkpoint"):
        import_weights(config, published[0], workdir)


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
        import_weights(config, source, tmp_path / "run")
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
        import_weights(make_config(**model), published[0], tmp_path / "run")
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
            import_weights(config, tmp_path / name, tmp_path / "run")
    with pytest.raises(UserError, match="is a file"):
        import_weights(config, tmp_path / "a", tmp_path / "text.safetensors")


def test_without_pytorch_the_message_says_what_to_do(published, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pth").write_bytes(b"")
    wanted = r"reading .pth needs PyTorch: pip install 'torch>=2.6', or give a .safetensors"
    with pytest.raises(UserError, match=wanted):
        read_tensors(tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"writing .pth needs PyTorch"):
        to_bytes({}, ".pth")
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


def test_impossible_shapes(published, tmp_path):
    _, tensors = published
    kernel = "features.bilinearatt_global.dimReduceLayer1.conv.conv.weight"
    for wrong in (np.zeros(()), np.zeros(3), np.zeros((0, 4, 1, 1))):
        path = write(tmp_path / "w.safetensors", tensors | {kernel: wrong.astype(np.float32)})
        with pytest.raises(UserError, match="has tensors of impossible shapes"):
            open_source(make_config(), path)
