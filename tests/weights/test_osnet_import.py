"""OSNet's weights: other heads and widths, prefixes, files that are refused, and imports."""

import numpy as np
import pytest
from support.tiny_osnet import draw, make_config
from support.tiny_weights import assert_same, write
from support.variants import few

from batnet_jax import weights
from batnet_jax.errors import UserError
from batnet_jax.models import osnet
from batnet_jax.modes.import_weights import import_weights
from batnet_jax.weights.convert import flatten, to_torch
from batnet_jax.weights.names import NAMES, OSNET, OSNET_AIN, OSNET_IBN
from batnet_jax.weights.sources import OtherNetworkError, check_agrees, open_source


@pytest.fixture(autouse=True, scope="module")
def few_streams():
    """Keep two streams in a block: names and rules are the same, and fewer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(osnet, "STREAMS", 2)
        yield


def named(variables, form, prefix=""):
    """Return variables under the authors' names, without the heads that have none."""
    flat = {NAMES[form](path): to_torch(path, v) for path, v in flatten(variables).items()}
    flat.pop(None, None)
    return {prefix + name: tensor for name, tensor in flat.items()}


@pytest.fixture(scope="module")
def theirs():
    return draw(make_config())


@pytest.fixture
def source(theirs, tmp_path):
    return write(tmp_path / "osnet.safetensors", named(theirs, OSNET))


def test_every_value_but_the_classifiers_is_loaded(theirs, source):
    fresh = draw(make_config(), seed=1)
    filled, report = weights.initialise(make_config(), fresh, source)
    head = filled["params"]["appearance_head"]
    assert_same(head.pop("classifier"), fresh["params"]["appearance_head"]["classifier"])
    wanted = {**theirs["params"], "appearance_head": dict(theirs["params"]["appearance_head"])}
    del wanted["appearance_head"]["classifier"]
    assert_same(filled["params"], wanted)
    assert_same(filled["batch_stats"], theirs["batch_stats"])
    assert report.skipped == [
        (f"classifier.{leaf}", "made for the new identities") for leaf in ("bias", "weight")
    ]


def test_a_classifier_of_cosines_is_made_anew(theirs, source):
    """It has no bias, and the file has one."""
    config = make_config(classifier="arcface")
    filled, report = weights.initialise(config, draw(config, seed=1), source)
    head = filled["params"]["appearance_head"]
    assert set(head["classifier"]) == {"kernel"}
    assert_same(head["embedding"], theirs["params"]["appearance_head"]["embedding"])
    assert report.skipped == [
        (f"classifier.{leaf}", "made for the new identities") for leaf in ("bias", "weight")
    ]


@pytest.mark.parametrize(
    "neck", few([{"neck": "bnneck", "embedding_dim": 0}, {"embedding_dim": 64}], keep=[0])
)
def test_a_network_with_another_head_takes_the_backbone(neck, theirs, source):
    config = make_config(**neck, attention="plain", num_parts=1)
    fresh = draw(config, seed=1)
    filled, report = weights.initialise(config, fresh, source)
    for name, value in filled["params"].items():
        if name.startswith("blk"):
            assert_same(value, theirs["params"][name])
        elif name == "part_streams":
            for stream, block in value.items():
                assert_same(block, theirs["params"][stream.split("_")[1]])
        else:
            assert_same(value, fresh["params"][name])
    head = {name for name, why in report.skipped if why == "the network has another head"}
    assert {"fc.0.weight", "fc.1.running_var", "classifier.bias"} <= head
    with pytest.raises(OtherNetworkError, match="embedding_dim=512"):
        check_agrees(open_source(config, source), config.model, whole=True)


@pytest.mark.parametrize(
    ("form", "file", "wanted", "found"),
    [
        (OSNET, "osnet_x0_5", {}, {"backbone": "osnet_x0_5"}),
        (OSNET, "osnet_x0_25", {"width": 0.5}, {"width": 1.0}),
        (OSNET_IBN, "osnet_ibn_x1_0", {}, {"backbone": "osnet_ibn_x1_0"}),
        (OSNET_AIN, "osnet_ain_x0_75", {}, {"backbone": "osnet_ain_x0_75"}),
    ],
    ids=str,
)
def test_the_member_of_the_family_is_told_by_its_names_and_widths(
    form, file, wanted, found, tmp_path
):
    path = write(tmp_path / "w.safetensors", named(draw(make_config(file)), form))
    config = make_config(**wanted)
    with pytest.raises(OtherNetworkError) as caught:
        check_agrees(open_source(config, path), config.model, whole=False)
    assert caught.value.found == found


def test_a_width_that_the_authors_do_not_have(tmp_path):
    config = make_config("osnet_x1_0", width=1 / 16)
    path = write(tmp_path / "w.safetensors", named(draw(config), OSNET))
    check_agrees(open_source(config, path), config.model, whole=True)
    with pytest.raises(OtherNetworkError) as caught:
        check_agrees(open_source(make_config(), path), make_config().model, whole=True)
    assert caught.value.found == {"width": 0.25}


def test_prefixes_of_other_programs(theirs, tmp_path):
    tensors = named(theirs, OSNET, "module.backbone.") | {"queue": np.zeros(3, np.float32)}
    path = write(tmp_path / "w.safetensors", tensors)
    filled, report = weights.initialise(make_config(), draw(make_config(), seed=1), path)
    assert_same(filled["params"]["blk4"], theirs["params"]["blk4"])
    assert "under the prefix 'backbone.'" in report.summary()
    assert ("queue", "without the prefix") in report.skipped


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv2.0.gate.fc1.bias"), r"1 missing \(conv2.0.gate.fc1.bias\)"),
        (lambda s: s.pop("fc.1.running_mean"), r"1 missing \(fc.1.running_mean\)"),
        (
            lambda s: s.update({"conv4.2.conv1.conv.weight": np.zeros((8, 128, 1, 1), "f4")}),
            r"1 of unknown names \(conv4.2.conv1.conv.weight\)",
        ),
        (
            lambda s: s.update({"conv3.1.conv3.bn.weight": np.zeros(7, "f4")}),
            r"conv3.1.conv3.bn.weight is \(7,\), not \(96,\)",
        ),
        (
            lambda s: s.update({"conv5.bn.bias": np.full(128, np.nan, "f4")}),
            "conv5.bn.bias has values that are not finite",
        ),
    ],
    ids=["a gate", "half a head", "a third block", "a shape", "not finite"],
)
def test_a_file_that_does_not_fit_is_refused(theirs, tmp_path, change, message):
    tensors = named(theirs, OSNET)
    change(tensors)
    path = write(tmp_path / "w.safetensors", tensors)
    with pytest.raises(UserError, match=message):
        weights.initialise(make_config(), draw(make_config(), seed=1), path)


def test_import_makes_a_checkpoint_or_names_the_flags(source, tmp_path):
    report = import_weights(make_config(), source, tmp_path / "run")
    assert report.format == OSNET
    assert {why for _, why in report.initial} == {"made for the new identities"}
    with pytest.raises(UserError, match=r"pass --config.model.neck=fc$"):
        import_weights(make_config(neck="none"), source, tmp_path / "other")
    config = make_config("osnet_ibn_x1_0")
    with pytest.raises(UserError, match=r"pass --config.model.backbone=osnet_x0_25$"):
        import_weights(config, source, tmp_path / "other")
    assert not (tmp_path / "other").exists()
