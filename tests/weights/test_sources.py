"""Starting from weights: of a backbone, of a published network, of a workdir."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny_weights import IDENTITIES, SIZE, assert_same, draw, make_config, write
from support.tiny_weights import config as config
from support.tiny_weights import fresh as fresh
from support.tiny_weights import imported as imported
from support.tiny_weights import published as published
from support.tiny_weights import variables as variables
from support.variants import few

from batnet_jax import weights
from batnet_jax.errors import UserError
from batnet_jax.export.published import to_published
from batnet_jax.inference.restore import restore_network
from batnet_jax.models.build import make_model
from batnet_jax.models.googlenet import BACKBONES, Block, Stem
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.modes.import_weights import import_weights
from batnet_jax.step.train_step import TrainState
from batnet_jax.training import start
from batnet_jax.weights import init_from
from batnet_jax.weights.convert import flatten, to_torch
from batnet_jax.weights.names import BATNET, published_name, torchvision_name
from batnet_jax.weights.sources import OtherNetworkError, check_agrees, open_source
from batnet_jax.workdir import checkpoints

# Backbones.


def backbone_tensors(variables, name_of, form=lambda name: name):
    """Return the tensors of our backbone under other names."""
    named = {name_of(path): to_torch(path, v) for path, v in flatten(variables).items()
             if path[1].startswith("blk")}  # fmt: skip
    return {form(name): tensor for name, tensor in named.items()}


def drop_modules(name):
    """Return the name in the published code's ImageNet file."""
    return name.removeprefix("features.").split(".", 1)[1]


def assert_backbone_loaded(filled, wanted, fresh):
    """Check: the backbone is `wanted`'s, the streams are copies of it, the rest is `fresh`'s."""
    for kind in ("params", "batch_stats"):
        for name, value in filled[kind].items():
            if name.startswith("blk"):
                assert_same(value, wanted[kind][name])
            elif name == "part_streams":
                for stream, blocks in value.items():
                    assert_same(blocks, wanted[kind][stream.split("_")[1]])
            else:
                assert_same(value, fresh[kind][name])


@pytest.mark.parametrize(
    "form", few([drop_modules, lambda n: n.removeprefix("features.")], keep=[0])
)
def test_the_published_imagenet_file(config, variables, fresh, tmp_path, form):
    tensors = backbone_tensors(variables, published_name, form)
    classifier = {"fc.weight": np.zeros((1000, 128), np.float32)}
    path = write(tmp_path / "backbone.safetensors", tensors | classifier)
    filled, report = weights.initialise(config, fresh, path)
    assert_backbone_loaded(filled, variables, fresh)
    assert report.skipped == [("fc.weight", "not of the backbone")]
    assert ("params/bi_attention/embed/bn/bias", "the source has no bi_attention") in report.initial
    copied = [done for ours, _, done in report.loaded if "part_streams" in ours]
    assert all(done.startswith("copied from blk") for done in copied)
    assert len(report.loaded) + len(report.initial) == len(flatten(fresh))
    spoilt = {n: t for n, t in tensors.items() if "5b.conv5_5.1" not in n}
    with pytest.raises(UserError, match="12 missing"):  # in the backbone and in two streams
        weights.initialise(config, fresh, write(tmp_path / "b.safetensors", spoilt))
    stranger = tensors | {"inception_6a.conv1.0.bias": np.zeros(1, np.float32)}
    with pytest.raises(UserError, match="inception_6a"):
        weights.initialise(config, fresh, write(tmp_path / "c.safetensors", stranger))


@pytest.mark.slow  # a backbone is loaded above, and test_import_weights imports
def test_import_of_a_backbone_leaves_the_rest_at_its_initial_values(variables, tmp_path):
    config = make_config(num_parts=1, attention="none")
    tensors = backbone_tensors(variables, published_name, drop_modules)
    source = write(tmp_path / "backbone.safetensors", tensors)
    report = import_weights(config, source, tmp_path / "run")
    assert {name.split("/")[1] for name, _ in report.initial} == {"appearance_head", "part_head"}
    _, restored = restore_network(config, tmp_path / "run", 0)
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
    filled, report = weights.initialise(config, fresh, path)
    assert_backbone_loaded(filled, variables, fresh)
    assert sorted(report.skipped) == [
        ("aux1.conv.conv.weight", "auxiliary classifier"),
        ("aux2.fc2.bias", "auxiliary classifier"),
        ("conv1.bn.num_batches_tracked", "PyTorch's count of batches"),
        ("fc.weight", "ImageNet classifier"),
    ]
    other = (
        r"googlenet.safetensors', torchvision googlenet, has backbone=torchvision, not published$"
    )
    with pytest.raises(OtherNetworkError, match=other) as caught:
        weights.initialise(make_config(num_parts=1), fresh, path)
    assert caught.value.found == {"backbone": "torchvision"}
    with pytest.raises(
        UserError, match=r"^backbone='torchvision' has no published names, only 'pub"
    ):
        to_published(make_model(config, IDENTITIES), variables)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_has_the_same_positions(backbone):
    x = jax.ShapeDtypeStruct((1, 256, 128, 3), jnp.float32)
    blocks = [Stem(backbone=backbone), *(Block(n, backbone=backbone) for n in (2, 3, 4))]
    shapes = []
    for block in blocks:
        x, _ = jax.eval_shape(partial(block.init_with_output, train=False), jax.random.key(0), x)
        shapes.append(x.shape)
    assert shapes == [(1, 32, 16, 192), (1, 16, 8, 480), (1, 8, 4, 832), (1, 8, 4, 1024)]


# Starting to train from a source.


def test_classifiers_are_made_for_the_new_identities(config, variables, fresh, published):
    filled, report = weights.initialise(config, fresh, published[0])
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
    filled, report = weights.initialise(bare, small, published[0])
    assert_same(filled["params"]["blk4"], variables["params"]["blk4"])
    reasons = {why for _, why in report.skipped}
    assert {"the network has no part streams", "the network has no Bi-attention"} <= reasons
    # A source of another network is refused by its attributes, before its tensors are compared.
    with pytest.raises(OtherNetworkError, match=r"BAT-net, has reduction=4, not 8$"):
        weights.initialise(make_config(reduction=8), fresh, published[0])
    # The weights fit any part sampling.
    source = open_source(make_config(part_sampling="paper"), published[0])
    check_agrees(source, make_config(part_sampling="paper").model, whole=False)
    assert source.format == BATNET


def test_the_flags_to_pass_are_named_when_training_starts(fresh, published):
    config = make_config(reduction=8)
    config.init["from"] = str(published[0])
    state = TrainState(np.int32(0), np.int32(0), fresh["params"], fresh["batch_stats"], ())
    with pytest.raises(
        UserError, match=r"has reduction=4, not 8: pass --config.model.reduction=4$"
    ):
        start.start_from(config, state, {"identities": []})


@pytest.fixture(scope="module")
def opened(config, imported):
    """The workdir as a source, which takes seconds to open."""
    return open_source(config, imported[0])


def test_a_workdir_is_a_source(config, variables, fresh, imported, opened, monkeypatch):
    workdir, _ = imported
    monkeypatch.setattr(init_from, "open_source", lambda *_: opened)
    identities = checkpoints.restore_metadata(workdir, 0)["identities"]
    same, report = weights.initialise(config, fresh, workdir, identities=identities)
    assert_same(same, variables)
    assert (report.format, report.initial) == ("batnet_jax workdir", [])
    others, report = weights.initialise(config, fresh, workdir, identities=identities[1:])
    assert_same(others["params"]["blk4"], variables["params"]["blk4"])
    head = others["params"]["part_head"]
    assert_same(head["classifier"], fresh["params"]["part_head"]["classifier"])
    assert len(report.initial) == len(report.skipped) == 4


NAMED = [["folder", pid, name] for pid, name in enumerate(("ann", "bob", "cid", "dan", "eve"))]
GROWN = [["folder", pid, name] for pid, name in enumerate(("abe", "ann", "cid", "dan", "zoe"))]


@pytest.mark.parametrize(
    ("theirs", "ours", "pairs"),
    [
        (NAMED, GROWN, {1: 0, 2: 2, 3: 3}),  # the pid of ann and of others has changed
        (NAMED, NAMED[::-1], {0: 4, 1: 3, 2: 2, 3: 1, 4: 0}),
        ([["market1501", p, ""] for p in (2, 3, 5, 7, 9)],
         [["market1501", p, ""] for p in (1, 2, 7, 9, 11)], {1: 0, 2: 3, 3: 4}),
        # Numbers become names when a folder with a name comes among them.
        ([["folder", p, ""] for p in (2, 3, 5, 7, 9)],
         [["folder", p, n] for p, n in enumerate(("3", "7", "9", "ann", "bob"))],
         {0: 1, 1: 3, 2: 4}),
        ([["market1501", p, ""] for p in range(5)],
         [["dukemtmc_reid", 4, ""], *(["market1501", p, ""] for p in range(1, 5))],
         {1: 1, 2: 2, 3: 3, 4: 4}),
    ],
)  # fmt: skip
def test_a_workdir_with_other_identities(
    config, variables, fresh, imported, opened, monkeypatch, theirs, ours, pairs
):
    """All layers come; in the classifiers those who are still there, by name, wherever they are."""
    source = opened._replace(identities=theirs)
    monkeypatch.setattr(init_from, "open_source", lambda *_: source)
    filled, report = weights.initialise(config, fresh, imported[0], identities=ours)
    new = [label for label in range(5) if label not in pairs]
    olds, initials = flatten(variables), flatten(fresh)
    classifiers = 0
    for path, got in flatten(filled).items():
        old, initial = olds[path], initials[path]
        if path[-2] != "classifier":
            np.testing.assert_array_equal(got, old)
            continue
        classifiers += 1
        for label, before in pairs.items():
            np.testing.assert_array_equal(got[..., label], old[..., before])
        np.testing.assert_array_equal(got[..., new], initial[..., new])
        assert not np.isin(initial[..., new], old).any()
    assert classifiers == 4  # kernel and bias of two heads
    kept = [": ".join((data, str(name or pid))) for data, pid, name in ours]
    fates = dict(report.identities)
    assert [fates[who] for who in kept] == ["kept" if i in pairs else "new" for i in range(5)]
    assert list(fates.values()).count("gone") == 5 - len(pairs)
    told = f"{len(pairs)} kept" + (f", {len(new)} new, {len(new)} gone" if new else "")
    assert report.summary().endswith(f"; identities of the classifiers ({told})")
    assert f"identity {kept[-1]} ({fates[kept[-1]]})\n" in report.text()
    assert [done for name, _, done in report.loaded if "classifier" in name] == [
        f"{len(pairs)} of 5 identities"
    ] * 4
    assert report.initial == report.skipped == []


def test_a_workdir_with_more_or_fewer_identities(config, variables, imported, opened, monkeypatch):
    source = opened._replace(identities=NAMED)
    monkeypatch.setattr(init_from, "open_source", lambda *_: source)
    for ours in ([*NAMED, ["folder", 5, "zoe"]], NAMED[1:3]):
        model = make_model(config, len(ours), axis_name=None)
        larger = draw_variables(model, SIZE, 3)
        filled, _ = weights.initialise(config, larger, imported[0], identities=ours)
        for head in ("appearance_head", "part_head"):
            got = filled["params"][head]["classifier"]["kernel"]
            old = variables["params"][head]["classifier"]["kernel"]
            assert got.shape == (32, len(ours))
            first = NAMED.index(ours[0])
            shared = min(len(ours), 5 - first)
            np.testing.assert_array_equal(got[:, :shared], old[:, first : first + shared])


def test_training_starts_with_the_identities_that_are_still_there(
    config, variables, fresh, imported, opened, monkeypatch, capsys
):
    source = opened._replace(identities=NAMED)
    monkeypatch.setattr(init_from, "open_source", lambda *_: source)
    config = config.copy_and_resolve_references()
    config.init["from"] = str(imported[0])
    state = TrainState(np.int32(0), np.int32(0), fresh["params"], fresh["batch_stats"], ())
    filled, report = start.start_from(config, state, {"identities": GROWN})
    kernel = filled.params["part_head"]["classifier"]["kernel"]
    before = variables["params"]["part_head"]["classifier"]["kernel"]
    np.testing.assert_array_equal(kernel[:, GROWN.index(["folder", 2, "cid"])], before[:, 2])
    assert "(3 kept, 2 new, 2 gone); see init.txt" in capsys.readouterr().out
    for line in ("folder: ann (kept)", "folder: zoe (new)", "folder: bob (gone)"):
        assert f"\nidentity {line}\n" in report


def test_no_identity_in_common(config, variables, fresh, imported, opened, monkeypatch):
    """The pids of another data set, and of people who are named, are other people's."""
    source = opened._replace(identities=NAMED)
    monkeypatch.setattr(init_from, "open_source", lambda *_: source)
    for ours in ([["folder", pid, ""] for pid in range(5)], [["b", *who[1:]] for who in NAMED]):
        filled, report = weights.initialise(config, fresh, imported[0], identities=ours)
        assert_same(filled["params"]["part_head"]["embedding"],
                    variables["params"]["part_head"]["embedding"])  # fmt: skip
        assert_same(filled["params"]["part_head"]["classifier"],
                    fresh["params"]["part_head"]["classifier"])  # fmt: skip
        assert report.identities == []
        assert len(report.initial) == 4


def test_an_idle_part_head_is_not_taken(variables, fresh, config, tmp_path, published):
    """Published checkpoints of the appearance extractor with attention have such a head."""
    tensors = {
        name: t for name, t in published[1].items() if "_local." not in name or "fc_" in name
    }
    path = write(tmp_path / "appearance.safetensors", tensors)
    filled, report = weights.initialise(config, fresh, path)
    assert_same(filled["params"]["part_head"], fresh["params"]["part_head"])
    assert_same(filled["params"]["part_streams"]["stream1_blk3"], variables["params"]["blk3"])
    assert ("fc_local.1.weight", "the source has no part streams") in report.skipped
    assert_same(filled["params"]["bi_attention"], variables["params"]["bi_attention"])
