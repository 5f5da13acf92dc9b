"""Weights whose names have a prefix, as other packages and self-supervised learning save them."""

import numpy as np
import pytest
from support.tiny_resnet import draw, make_config
from support.tiny_weights import assert_same, write
from support.tiny_weights import config as published_config
from support.tiny_weights import draw as draw_published
from support.tiny_weights import make_config as make_published
from support.variants import few

from batnet_jax import weights
from batnet_jax.errors import UserError
from batnet_jax.weights.convert import flatten, to_torch
from batnet_jax.weights.names import find_prefixes, published_name, resnet_name, torchvision_name

config = published_config
"""A fixture: the published network, narrow."""


def named(variables, name_of, prefix=""):
    """Return the backbone's tensors of our variables under other names, with a prefix."""
    flat = {path: v for path, v in flatten(variables).items() if path[1].startswith("blk")}
    return {prefix + name_of(path): to_torch(path, value) for path, value in flat.items()}


@pytest.fixture(scope="module")
def theirs():
    return draw(make_config())


@pytest.fixture(scope="module")
def ours():
    return draw(make_config(), seed=1)


def assert_backbone(filled, wanted):
    for kind in ("params", "batch_stats"):
        for name in ("blk1", "blk2", "blk3", "blk4"):
            assert_same(filled[kind][name], wanted[kind][name])


PREFIXES = ["backbone.", "base.", "model.", "module.encoder_q.", "module.backbone.", "a.b.c."]
PREFIXES += ["module.module.model.base."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_shared_prefix_is_found_and_said(prefix, theirs, ours, tmp_path):
    """The other tensors are a head, a queue and a counter, as such files have them."""
    others = {"heads.weight": np.zeros((3, 4), np.float32), "queue_ptr": np.zeros(1, np.int64)}
    others[f"{prefix}bn1.num_batches_tracked"] = np.zeros((), np.int64)
    others[f"{prefix}fc.0.weight"] = np.zeros((4, 4), np.float32)
    path = write(tmp_path / "w.safetensors", named(theirs, resnet_name, prefix) | others)
    filled, report = weights.initialise(make_config(), ours, path)
    assert_backbone(filled, theirs)
    said = prefix.replace("module.", "")
    assert f"under the prefix '{said}'" in report.summary() if said else True
    assert dict(report.skipped) == {
        "heads.weight": "without the prefix",
        "queue_ptr": "without the prefix",
        f"{prefix}bn1.num_batches_tracked": "PyTorch's count of batches",
        f"{prefix}fc.0.weight": "ImageNet classifier",
    }
    kernel = next(row for row in report.loaded if row[0] == "params/blk1/conv1/conv/kernel")
    assert kernel[1] == f"{prefix}conv1.weight"  # the report has the file's own names


@pytest.mark.parametrize("name_of", few([published_name, torchvision_name], keep=[0]))
def test_the_other_backbones(name_of, tmp_path):
    backbone = "published" if name_of is published_name else "torchvision"
    config = make_published(backbone=backbone, num_parts=1)
    theirs, ours = draw_published(config), draw_published(config, seed=1)
    path = write(tmp_path / "w.safetensors", named(theirs, name_of, "module.net."))
    filled, report = weights.initialise(config, ours, path)
    assert_backbone(filled, theirs)
    assert "under the prefix 'net.'" in report.summary()


def test_the_moving_average_of_an_encoder_is_not_taken(theirs, ours, tmp_path):
    average = named(ours, resnet_name, "module.encoder_k.")
    both = average | named(theirs, resnet_name, "module.encoder_q.")
    filled, report = weights.initialise(
        make_config(), ours, write(tmp_path / "w.safetensors", both)
    )
    assert_backbone(filled, theirs)
    assert {name for name, _ in report.skipped} == set(average)
    assert "under the prefix 'encoder_q.'" in report.summary()
    alone = write(tmp_path / "k.safetensors", named(theirs, resnet_name, "module.encoder_k."))
    assert_backbone(weights.initialise(make_config(), ours, alone)[0], theirs)


def test_two_backbones_need_the_setting(theirs, ours, tmp_path):
    both = named(ours, resnet_name, "student.net.") | named(theirs, resnet_name, "teacher.net.")
    path = write(tmp_path / "w.safetensors", both)
    message = r"2 backbones, under 'student\.net\.' and 'teacher\.net\.': choose one$"
    config = make_config()
    with pytest.raises(UserError, match=message):
        weights.initialise(config, ours, path)
    for given in ("teacher.net", "teacher.net.", "module.teacher.net"):
        config.init.prefix = given
        assert_backbone(weights.initialise(config, ours, path)[0], theirs)
    config.init.prefix = "tutor"
    with pytest.raises(UserError, match=r"no tensor under 'tutor': it has .*'student"):
        weights.initialise(config, ours, path)
    config.init.prefix = "teacher"
    with pytest.raises(UserError, match="is none of BAT-net"):
        weights.initialise(config, ours, path)


@pytest.mark.slow  # its backbone alone is tested above, all its names in test_import_weights
def test_a_whole_published_network_under_a_prefix(tmp_path):
    config = make_published()
    theirs, ours = draw_published(config), draw_published(config, seed=1)
    flat = {path: value for path, value in flatten(theirs).items() if published_name(path)}
    tensors = {f"net.{published_name(path)}": to_torch(path, v) for path, v in flat.items()}
    filled, report = weights.initialise(config, ours, write(tmp_path / "w.safetensors", tensors))
    for path, value in flatten(filled).items():
        if path[-2] != "classifier":
            np.testing.assert_array_equal(value, flatten(theirs)[path])
    assert "under the prefix 'net.'" in report.summary()


def test_prefixes_of_names():
    assert find_prefixes([]) == []
    assert find_prefixes(["layer1.0.conv3.weight"]) == [""]
    assert find_prefixes(["module.module.layer1.0.conv3.weight"]) == [""]
    assert find_prefixes(["xlayer1.0.conv3.weight", "a.conv3.weight"]) == []
    assert find_prefixes(["inception1.inception_3a.conv1.0.weight"]) == [""]
    assert find_prefixes(["b.layer1.0.conv3.weight", "a.inception3a.branch1.conv.weight"]) == [
        "a.",
        "b.",
    ]


def test_no_prefix_is_said_where_names_have_none(theirs, ours, tmp_path):
    path = write(tmp_path / "w.safetensors", named(theirs, resnet_name, "module."))
    filled, report = weights.initialise(make_config(), ours, path)
    assert_backbone(filled, theirs)
    assert "under the prefix" not in report.summary()
