"""ResNet-50, the BNNeck, and what is built on them; the backbone against PyTorch in float64."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from fast import jit
from test_main import CUT, MAIN, ROOT, lines, run_main

import batnet_jax
from batnet_jax import checkpoint, pretrained
from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.models import BATNet, feature_sizes, resnet
from batnet_jax.models.initial import draw_variables
from batnet_jax.models.neck import BNNeckHead
from batnet_jax.models.resnet import Stage
from batnet_jax.pretrained.convert import flatten, to_torch, torch_shape
from batnet_jax.pretrained.names import canonical, resnet_name
from batnet_jax.pretrained.sources import check_agrees, open_source
from batnet_jax.restoring import check_architecture
from batnet_jax.steps import init_state, make_model, make_recipe

SIZE = (64, 32)
STRONG = {"backbone": "resnet50", "neck": "bnneck", "embedding_dim": 0, "dropout": 0.0}
BARE = {**STRONG, "attention": "none", "num_parts": 0}
WIDTH = 1 / 16
# Float64, where only the order of sums differs, through 53 layers and their backward pass.
close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)


def make_config(**model):
    config = default_config()
    config.data.image_size = SIZE
    config.model.update({**BARE, "width": WIDTH, **model})
    return config


def draw(config, seed=0):
    return draw_variables(make_model(config, 5, axis_name=None), SIZE, seed)


def shapes_of(model, size=(256, 128)):
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    return jax.eval_shape(partial(model.init, train=True), keys, images)


# Counts and shapes, for which nothing is computed.


def resnet50_by_hand(stages=(1, 2, 3, 4)):
    """Parameters of He et al. 2016, Table 1; a BN has two a channel."""

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
    torch = pytest.importorskip("torch")
    import torch_resnet

    with torch.device("meta"):
        state = torch_resnet.TorchResNet50().state_dict()
    # Of torchvision's: its number of tensors and parameters, and names that tell the layout.
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
    """Narrow, in float64, of values that are float32's."""
    import torch_batnet
    import torch_resnet

    network = torch_resnet.TorchResNet50(width=WIDTH, units=units, classes=7)
    torch_batnet.randomise(network, seed=seed)
    return network


def run_stages(variables, images, *, train):
    """The maps p1..p4 of our backbone alone, and its new statistics."""
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
    """All 53 convolutions, of a state dict on the disk: maps, and in training the statistics."""
    torch = pytest.importorskip("torch")
    network = torch_network((3, 4, 6, 3))
    torch.save(network.state_dict(), tmp_path / "resnet50.pth")
    config = make_config()
    fresh = draw(config)
    variables, report = pretrained.initialise(config, fresh, tmp_path / "resnet50.pth")
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
    torch = pytest.importorskip("torch")
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
    assert seen == len(theirs) - 2  # but for fc


def from_state(state, path):
    names = tuple(key.key for key in path)
    name = resnet_name(names)
    tensor = state[name] if name else np.zeros(1)
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor


# Import.


@pytest.fixture(scope="module")
def state():
    """A narrow network under torchvision's names, made of ours; no PyTorch needed."""
    named = {
        resnet_name(path): to_torch(path, v) for path, v in flatten(draw(make_config())).items()
    }
    named.pop(None)
    return named | {"fc.weight": np.zeros((7, 128), np.float32), "fc.bias": np.zeros(7, np.float32)}


def write(path, tensors):
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, path)
    return path


def test_parts_start_as_copies_and_import_makes_a_checkpoint(state, tmp_path):
    source = write(tmp_path / "resnet50.safetensors", state)
    config = make_config(num_parts=2, attention="aia")
    report = pretrained.run_import(config, source, tmp_path / "run")
    assert "2 ImageNet classifier" in report.summary()
    model = batnet_jax.load(tmp_path / "run")
    assert model.dim == (1 + 2) * 128
    recipe = make_recipe(config, num_identities=1, steps_per_epoch=1)
    params = checkpoint.restore_state(tmp_path / "run", 0, init_state(recipe, SIZE)).params
    streams = params["part_streams"]
    for stream, blocks in streams.items():
        jax.tree.map(np.testing.assert_array_equal, blocks, params[stream.split("_")[1]])
    assert set(streams) == {f"stream{t}_blk{n}" for t in (0, 1) for n in (3, 4)}
    kernel = params["blk1"]["unit0"]["conv2"]["conv"]["kernel"]
    np.testing.assert_array_equal(to_torch(("", "", ""), kernel), state["layer1.0.conv2.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer2.0.downsample.1.bias"), r"1 missing \(layer2.0.downsample.1.bias"),
        (  # ResNet-101's third stage goes on
            lambda s: s.update({"layer3.6.conv1.weight": np.zeros((16, 64, 1, 1), np.float32)}),
            r"1 of unknown names \(layer3.6.conv1.weight\)",
        ),
        (  # ResNet-18 and -34 have no third convolution
            lambda s: [s.pop(name) for name in list(s) if "conv3" in name],
            "none of BAT-net, published backbone, torchvision googlenet, torchvision resnet50",
        ),
    ],
    ids=["missing", "deeper", "no bottlenecks"],
)
def test_other_networks_are_refused(state, tmp_path, change, message):
    tensors = dict(state)
    change(tensors)
    source = write(tmp_path / "other.safetensors", tensors)
    with pytest.raises(UserError, match=message):
        pretrained.initialise(make_config(), draw(make_config()), source)


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ({"backbone": "published"}, "pass --config.model.backbone=resnet50"),
        ({"width": 0.5}, "pass --config.model.width=0.0625"),
    ],
    ids=str,
)
def test_the_flags_to_pass_are_named(state, tmp_path, model, flags):
    config = make_config(**model)
    source = open_source(config, write(tmp_path / "resnet50.safetensors", state))
    with pytest.raises(UserError, match=flags):
        check_agrees(source, config.model, whole=False)


@pytest.mark.parametrize("model", [{}, {"backbone": "published"}], ids=["resnet", "neck"])
def test_what_the_published_code_has_not_is_not_exported(tmp_path, model):
    config = make_config(**model)
    with pytest.raises(UserError, match=r"config.model.(backbone|neck)='\w+' has no published na"):
        pretrained.run_export(config, draw(config), tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_a_checkpoint_older_than_the_neck_has_none():
    config = default_config()
    saved = {name: value for name, value in config.model.to_dict().items() if name != "neck"}
    check_architecture(config, {"model": saved}, ROOT)
    config.model.neck = "bnneck"
    with pytest.raises(UserError, match=r"model.neck='none', and the config says 'bnneck'"):
        check_architecture(config, {"model": saved}, ROOT)


# The BNNeck.


def plain_head(x, params, stats, train):
    """Before the neck, behind it, and the scores, in the plainest form."""
    before = x.mean((1, 2))
    if "embedding" in params:
        before = before @ params["embedding"]["kernel"]
    mean, var = (before.mean(0), before.var(0)) if train else stats["neck"].values()
    behind = (before - mean) / jnp.sqrt(var + 1e-5) * params["neck"]["scale"]
    return before, behind, behind @ params["classifier"]["kernel"]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("embedding_dim", [0, 6])
def test_the_triplet_loss_sees_one_side_of_the_neck_and_the_test_the_other(embedding_dim):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 4, 3, 8))
    head = BNNeckHead(3, embedding_dim, dtype=jnp.float64)
    shapes = jax.eval_shape(partial(head.init, train=True), jax.random.key(0), x)
    variables = oracles.random_values(shapes, 1)
    params, stats = variables["params"], variables["batch_stats"]
    names = {"neck": {"scale"}, "classifier": {"kernel"}}  # neither has a shift
    names |= {"embedding": {"kernel"}} if embedding_dim else {}
    assert {name: set(layer) for name, layer in params.items()} == names

    (feature, scores), new = head.apply(variables, x, train=True, mutable=["batch_stats"])
    before, _, expected = plain_head(x, params, stats, train=True)
    close(feature, before)
    close(scores, expected)
    close(new["batch_stats"]["neck"]["mean"], 0.9 * stats["neck"]["mean"] + 0.1 * before.mean(0))
    feature, scores = head.apply(variables, x, train=False)
    _, behind, expected = plain_head(x, params, stats, train=False)
    close(feature, behind)
    close(scores, expected)

    weights = rng.standard_normal(scores.shape), rng.standard_normal(feature.shape)

    def loss(params, run):
        feature, scores = run(params)
        return (scores * weights[0]).sum() + (feature * weights[1]).sum()

    def ours(params):
        own = {**variables, "params": params}
        return head.apply(own, x, train=True, mutable=["batch_stats"])[0]

    def plain(params):
        before, _, scores = plain_head(x, params, stats, train=True)
        return before, scores

    got, expected = (jax.grad(partial(loss, run=run))(params) for run in (ours, plain))
    jax.tree.map(close, got, expected)


def test_the_bnnecks_dropout_is_before_the_classifier_and_in_training_only():
    x = np.random.default_rng(0).standard_normal((4, 2, 1, 64)).astype(np.float32)
    head = BNNeckHead(3, dropout=0.5)
    variables = head.init(jax.random.key(0), x, train=False)

    def scores(key, train):
        rngs = {"dropout": jax.random.key(key)}
        run = head.apply(variables, x, train=train, rngs=rngs, mutable=["batch_stats"])
        return np.asarray(run[0][0]), np.asarray(run[0][1])

    np.testing.assert_array_equal(scores(1, True)[0], scores(2, True)[0])
    assert (scores(1, True)[1] != scores(2, True)[1]).any()
    np.testing.assert_array_equal(scores(1, False)[1], scores(2, False)[1])


@pytest.mark.usefixtures("short_backbone")
def test_the_neck_stands_behind_the_papers_backbone_too():
    model = BATNet(5, neck="bnneck", embedding_dim=0, num_parts=2, width=WIDTH, attention="none")
    variables = shapes_of(model, (64, 32))
    outputs = jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct((2, 64, 32, 3), "f4"))
    sizes = feature_sizes(variables["params"])
    assert sizes["part"] == 2 * sizes["appearance"] > 2
    assert {name: f.shape[1] for name, f in outputs["features"].items()} == sizes


# From end to end.


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
