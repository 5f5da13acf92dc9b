"""Imports and exports with PyTorch: features, ways of saving, hostile files, round trips."""

import argparse
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import needs
from support.fast_jit import jit
from support.tiny_weights import IDENTITIES, assert_same, draw, make_config
from support.tiny_weights import config as config
from support.tiny_weights import fresh as fresh
from support.tiny_weights import variables as variables

from batnet_jax import weights
from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.export.published import published_tensors, to_bytes
from batnet_jax.inference.restore import restore_network
from batnet_jax.models.bi_attention import bilinear
from batnet_jax.models.build import make_model
from batnet_jax.models.googlenet import Block, Stem
from batnet_jax.modes.export import write_published
from batnet_jax.modes.import_weights import import_weights
from batnet_jax.weights.fill import fill
from batnet_jax.weights.names import bilinear_order
from batnet_jax.weights.read_tensors import read_tensors
from batnet_jax.weights.sources import check_agrees, open_source

# Two correct implementations of a float32 forward pass sum in different orders: 1e-4, for features
# of unit length and maps of size 1. Values that are only copied must be equal.
close = partial(np.testing.assert_allclose, rtol=0, atol=1e-4)


# With PyTorch.


@pytest.fixture(scope="module")
def oracle(config):
    """The published network as we have written it in PyTorch, of the config's size."""
    needs.package("torch")
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
    torch = needs.package("torch")
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
    torch = needs.package("torch")
    import pickle

    # Python 2 pickled NumPy's scalars as byte strings; this one is not UTF-8.
    stream = torch.serialization.MAGIC_NUMBER
    head = [stream, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    number = (
        b"\x80\x02}U\x05rank1cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02f8K\x00K\x01\x87R"
    )
    number += b"U\x08\xff\xfe\xfd\xfc\xfb\xfa\xec\x3f\x86Rs."
    parts = [pickle.dumps(x, 2) for x in head] + [number, pickle.dumps([], 2)]
    (tmp_path / "old.pth.tar").write_bytes(b"".join(parts))
    with pytest.raises(UserError, match="holds no state dict"):  # so it could be read
        read_tensors(tmp_path / "old.pth.tar")


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused(config, tmp_path, zipped):
    torch = needs.package("torch")
    marker = tmp_path / "marker"
    content = {"state_dict": {"a": torch.ones(2)}, "args": Malicious(marker)}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="run code") as caught:
        import_weights(config, tmp_path / "evil.pth", tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    assert not (tmp_path / "run").exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert marker.exists()  # the file would have run code


def test_unreadable_pytorch_files(tmp_path):
    torch = needs.package("torch")
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
    ours.write_bytes(to_bytes(published_tensors(variables), suffix))
    back, _ = fill(fresh, open_source(config, ours), keep_classifiers=True)
    assert_same(back, variables)

    state = oracle.state_dict()
    torch.save(state, tmp_path / "theirs.pth")
    source = open_source(config, tmp_path / "theirs.pth")
    imported, _ = fill(fresh, source, keep_classifiers=True)
    ours.write_bytes(to_bytes(published_tensors(imported), suffix))
    again = read_tensors(ours)
    assert again.keys() == {name for name in state if "num_batches" not in name}
    for name, tensor in again.items():
        np.testing.assert_array_equal(tensor, state[name].numpy())
    loaded = oracle.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in again.items()})
    assert loaded.missing_keys == loaded.unexpected_keys == []


def run_backbone(variables, images, width, backbone, last):
    """Return the maps p1..p4 of our backbone alone, up to Blk `last`."""
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
    torch = needs.package("torch")
    import torch_batnet
    from support import torch_googlenet

    backbone = "torchvision" if transform_input else "torchvision_raw"
    network = torch_googlenet.TorchGoogLeNet(
        aux=transform_input, transform_input=transform_input, width=1 / 8
    )
    torch_batnet.randomise(network, seed=0)
    torch.save(network.state_dict(), tmp_path / "googlenet.pth")
    config = make_config(backbone=backbone, num_parts=0, attention="none")
    filled, report = weights.initialise(config, draw(config), tmp_path / "googlenet.pth")
    assert ("aux1.fc1.weight", "auxiliary classifier") in report.skipped or not transform_input
    images = np.random.default_rng(0).standard_normal((2, 128, 64, 3)).astype(np.float32)
    last = 4 if transform_input else 1  # after Blk1 the two are the same
    ours = run_backbone(filled, images, 1 / 8, backbone, last)
    with torch.no_grad():
        theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    for mine, other in zip(ours, theirs[:last], strict=True):
        close(mine, other.numpy().transpose(0, 2, 3, 1))


@pytest.mark.slow
@pytest.mark.parametrize(("attention", "parts"), [("aia", 4), ("plain", 0), ("none", 4)])
def test_features_equal_pytorchs_at_full_width(tmp_path, attention, parts):
    torch = needs.package("torch")
    import torch_batnet

    config = default_config()
    config.model.update(
        {"attention": attention, "num_parts": parts, "part_sampling": "published", "reduction": 16}
    )
    network = torch_batnet.TorchBATNet(50, attention=attention, parts=parts)
    torch_batnet.randomise(network, seed=0)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "batnet.pth.tar")
    import_weights(config, tmp_path / "batnet.pth.tar", tmp_path / "run")
    model, variables = restore_network(config, tmp_path / "run", 0)
    images = np.random.default_rng(0).standard_normal((2, 256, 128, 3)).astype(np.float32)
    close(features_of(model, variables, images), torch_features(network, images))


# Export.


def test_export_refuses_networks_without_published_names(variables):
    strange = {  # at p1; a linear kernel; at several positions
        "embed": ("bi_attention", {"embed": {"conv": {"kernel": np.zeros((1, 1, 24, 15))}}}),
        "local": ("bi_attention", {"local": {"conv": {"kernel": np.zeros((1, 1, 15, 60))}}}),
        "several": ("bi_attention_p2", {}),
    }
    for name, layers in strange.values():
        attention = variables["params"]["bi_attention"] | layers
        rest = {k: v for k, v in variables["params"].items() if k != "bi_attention"}
        with pytest.raises(UserError, match=r"the published (names have one|code has no)"):
            published_tensors({"params": rest | {name: attention}})


def test_export_says_what_will_differ(variables, tmp_path):
    model = make_model(make_config(part_sampling="paper"), IDENTITIES)
    lines = write_published(tmp_path / "w.safetensors", model, variables)
    assert "model.part_sampling=paper" in lines[0]
    model = make_model(make_config(), IDENTITIES)
    lines = write_published(tmp_path / "w.safetensors", model, variables)
    count = len(published_tensors(variables))
    written = (
        f"written: {tmp_path / 'w.safetensors'}, {count} tensors under the published code's names"
    )
    assert lines == [written]
