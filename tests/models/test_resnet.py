"""ResNet-50: counts, names, maps and gradients compared with PyTorch's, and a whole run."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import needs
from support.fast_jit import jit
from support.run_main import CUT, MAIN, lines, run_main
from support.tiny_resnet import BARE, SIZE, STRONG, WIDTH, close, draw, make_config, shapes_of
from support.tiny_weights import write

import batnet_jax
from batnet_jax import weights
from batnet_jax.models import BATNet, feature_sizes, resnet
from batnet_jax.models.resnet import Stage
from batnet_jax.weights.convert import flatten, to_torch, torch_shape
from batnet_jax.weights.names import canonical, resnet_name

# Counts and shapes; nothing is computed.


def resnet50_by_hand(stages=(1, 2, 3, 4)):
    """Count the parameters of He et al. 2016, Table 1; a BN has two for each channel."""

    def conv_bn(inputs, outputs, kernel=1):
        return inputs * outputs * kernel**2 + 2 * outputs

    total = conv_bn(3, 64, 7) if 1 in stages else 0
    for number, count in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True):
        inner, outer = 64 * 2 ** (number - 1), 256 * 2 ** (number - 1)
        inputs = 64 if number == 1 else outer // 2
        for i in range(count * (number in stages)):
            total += conv_bn(inputs, inner) + conv_bn(inner, inner, 3) + conv_bn(inner, outer)
            total += conv_bn(inputs, outer) if i == 0 else 0
            inputs = outer
    return total


def attention_by_hand(channels, reduction=4):
    embedded = channels // reduction
    pairs = embedded * (embedded + 1) // 2
    return channels * embedded + 3 * embedded + 2 * (pairs * channels + 3 * channels)


BACKBONE = 23_508_032  # torchvision's resnet50, 25,557,032, without its 1000 classes


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (BARE, BACKBONE + 2048 + 2048 * 50),
        ({**BARE, "attention": "aia"}, BACKBONE + 2048 + 2048 * 50 + attention_by_hand(512)),
        ({**BARE, "embedding_dim": 512}, BACKBONE + 2048 * 512 + 512 + 512 * 50),
        (
            {**BARE, "num_parts": 2},
            BACKBONE + 2 * resnet50_by_hand((3, 4)) + 3 * (2048 + 2048 * 50),
        ),
        (
            {"backbone": "resnet50", "attention": "none", "num_parts": 0},  # the paper's heads
            BACKBONE + 2 * 2048 + 2048 * 512 + 512 + 2 * 512 + 512 * 50 + 50,
        ),
    ],
    ids=["bare", "aia", "fc", "parts", "the paper's head"],
)
def test_parameter_counts(variant, expected):
    assert resnet50_by_hand() == BACKBONE
    params = shapes_of(BATNet(50, **variant))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_shapes_at_every_position_and_of_the_streams():
    reduction = 16
    model = BATNet(50, **STRONG, position="p1,p2,p3,p4", reduction=reduction)
    variables = shapes_of(model)
    images = jax.ShapeDtypeStruct((2, 256, 128, 3), jnp.float32)
    outputs = jax.eval_shape(model.apply, variables, images)
    assert {position: maps["mask"].shape for position, maps in outputs["attention"].items()} == {
        "p1": (2, 64, 32, 256), "p2": (2, 32, 16, 512), "p3": (2, 16, 8, 1024),
        "p4": (2, 16, 8, 2048),
    }  # fmt: skip
    sizes = {"appearance": 2048, "part": 4 * 2048}
    assert {name: f.shape for name, f in outputs["features"].items()} == {
        name: (2, size) for name, size in sizes.items()
    }
    assert feature_sizes(variables["params"]) == sizes
    assert feature_sizes(shapes_of(BATNet(50, embedding_dim=64))["params"]) == {
        "appearance": 64, "part": 64
    }  # fmt: skip
    assert feature_sizes(shapes_of(BATNet(50, num_parts=0))["params"]) == {"appearance": 512}


# Names, and PyTorch.


def test_names_and_shapes_are_torchvisions():
    torch = needs.package("torch")
    from support import torch_resnet

    with torch.device("meta"):
        state = torch_resnet.TorchResNet50().state_dict()
    # The numbers of torchvision's tensors and parameters, and names that show the layout.
    assert len(state) == 320
    learned = [t.numel() for n, t in state.items() if "running" not in n and "num_" not in n]
    assert sum(learned) == 25_557_032
    facts = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.bias": (256,),
        "layer3.5.conv2.weight": (256, 256, 3, 3),
        "layer4.2.bn3.running_mean": (2048,),
        "fc.weight": (1000, 2048),
    }
    assert {name: tuple(state[name].shape) for name in facts} == facts
    ours = {}
    variables = shapes_of(BATNet(50, **BARE))
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        names = tuple(key.key for key in path)
        if name := resnet_name(names):
            ours[name] = torch_shape(leaf.shape)
            assert canonical(name) == canonical(f"module.{name}") == name
        else:
            assert names[1] == "appearance_head"
    theirs = {n: tuple(t.shape) for n, t in state.items() if "num_" not in n and n[:3] != "fc."}
    assert ours == theirs


def torch_network(units, seed=0):
    """Return a narrow PyTorch network whose values are exact in float32."""
    import torch_batnet
    from support import torch_resnet

    network = torch_resnet.TorchResNet50(width=WIDTH, units=units, classes=7)
    torch_batnet.randomise(network, seed=seed)
    return network


def run_stages(variables, images, *, train):
    """Return the maps p1..p4 of our backbone alone, and its new statistics."""
    maps, stats, x = [], {}, images
    for number in (1, 2, 3, 4):
        name = f"blk{number}"
        own = {kind: tree[name] for kind, tree in variables.items()}
        stage = Stage(number, WIDTH, dtype=jnp.float64)
        x, new = stage.apply(own, x, train=train, mutable=["batch_stats"])
        maps.append(x)
        stats[name] = new.get("batch_stats", {})
    return maps, stats


def nhwc(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("train", [False, True])
def test_the_backbone_equals_pytorchs(tmp_path, train):
    """All 53 convolutions, loaded from a state dict: maps, and in training the statistics."""
    torch = needs.package("torch")
    network = torch_network((3, 4, 6, 3))
    torch.save(network.state_dict(), tmp_path / "resnet50.pth")
    config = make_config()
    fresh = draw(config)
    variables, report = weights.initialise(config, fresh, tmp_path / "resnet50.pth")
    variables = jax.tree.map(np.float64, variables)
    counts = [name for name, why in report.skipped if why == "PyTorch's count of batches"]
    assert len(counts) == 53
    assert [row for row in report.skipped if row[0] not in counts] == [
        ("fc.weight", "ImageNet classifier"), ("fc.bias", "ImageNet classifier")
    ]  # fmt: skip
    assert len(report.loaded) == 53 * 5
    assert {name.split("/")[1] for name, _ in report.initial} == {"appearance_head"}
    images = np.random.default_rng(0).standard_normal((3, *SIZE, 3))
    maps, stats = jit(partial(run_stages, train=train))(variables, images)
    network.double().train(train)
    with torch.no_grad():
        theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    for mine, other in zip(maps, theirs, strict=True):
        close(mine, nhwc(other))
    if train:
        state = network.state_dict()
        for path, leaf in flatten({"batch_stats": stats}).items():
            close(leaf, state[resnet_name(path)])


@pytest.mark.usefixtures("float64", "short_resnet")
def test_gradients_equal_pytorchs():
    torch = needs.package("torch")
    network = torch_network((2, 1, 1, 1)).double().train()
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    variables = jax.tree_util.tree_map_with_path(
        lambda path, _: from_state(state, path), draw(make_config())
    )
    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, *SIZE, 3))
    *_, last = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    weights = rng.standard_normal(nhwc(last).shape)
    (last * torch.from_numpy(weights.transpose(0, 3, 1, 2).copy())).sum().backward()

    def weighed(params):
        maps, _ = run_stages({**variables, "params": params}, images, train=True)
        return (maps[-1] * weights).sum()

    theirs = {name: parameter.grad for name, parameter in network.named_parameters()}
    seen = 0
    for path, leaf in flatten({"params": jit(jax.grad(weighed))(variables["params"])}).items():
        if path[1].startswith("blk"):
            expected = theirs[resnet_name(path)].numpy()
            error = np.abs(to_torch(path, leaf) - expected).max()
            assert error < 1e-8 * np.abs(expected).max(), path
            seen += 1
    assert seen == len(theirs) - 2  # all except fc


def from_state(state, path):
    names = tuple(key.key for key in path)
    name = resnet_name(names)
    tensor = state[name] if name else np.zeros(1)
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor


# End to end.


@pytest.mark.parametrize(
    "entry",
    [pytest.param(CUT, id="cut"), pytest.param(MAIN, id="whole", marks=pytest.mark.slow)],
)
def test_the_main_job_trains_and_evaluates_it(tmp_path, monkeypatch, entry):
    """configs/market1501_resnet50.py on drawn images, narrow, from imported weights."""
    if entry == CUT:
        for number in resnet.UNITS:
            monkeypatch.setitem(resnet.UNITS, number, 1)
    state = {
        resnet_name(path): to_torch(path, value)
        for path, value in flatten(draw(make_config())).items()
        if resnet_name(path)
    }
    source = write(tmp_path / "resnet50.safetensors", state)
    run = tmp_path / "run"
    command = (
        "--config=configs/market1501_resnet50.py",
        "--config.data.dataset=pedestrians",
        "--config.data.variant=tiny",
        f"--config.data.dir={tmp_path / 'data'}",
        "--config.data.image_size=(64, 32)",
        f"--config.model.width={WIDTH}",
        "--config.batch.identities=4",
        "--config.batch.images_per_identity=2",
        "--config.num_epochs=2",
        "--config.warmup_epochs=1",
        "--config.log.every_steps=1",
        f"--config.init.from={source}",
        f"--workdir={run}",
    )
    process = run_main(*command, entry=entry)
    assert process.returncode == 0, process.stderr
    figures = lines(run)
    assert all(np.isfinite(f["loss"]) for f in figures)
    rates, half = [f["lr"] for f in figures], len(figures) // 2
    assert rates[0] == pytest.approx(3.5e-5)  # up to 3.5e-4 in the first epoch, then down
    assert rates == [*sorted(rates[: half + 1]), *sorted(rates[half + 1 :], reverse=True)]
    assert rates[half] == pytest.approx(3.5e-4)
    step = figures[-1]["step"]
    assert 0 < json.loads((run / "eval" / f"step_{step}.json").read_text())["mAP"] < 1
    assert "loaded params/blk4/unit0/conv3/conv/kernel" in (run / "init.txt").read_text()
    assert batnet_jax.load(run).dim == 128
