"""The race of benchmarks/train_step.py is fair: all contestants compute the same."""

import json
import re
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import optax
import pytest
from network_cost import training_flops
from support import needs
from support.fast_jit import jit
from support.paths import ROOT

from batnet_jax.config import default_config
from batnet_jax.step import augment, train_step
from batnet_jax.weights.convert import flatten, to_torch
from batnet_jax.weights.names import published_name

NET = {"reduction": 4, "parts": 1, "width": 1 / 16, "embedding": 32}
LABELS = np.repeat(np.arange(3), 4).astype(np.int32)
IDENTITIES = 5
KEEP_GRADIENT = optax.GradientTransformation(
    init=lambda params: params, update=lambda gradients, _, __: (gradients, gradients)
)


def published(tree):
    """Leaves by the published names and in PyTorch's shapes."""
    return {published_name(p): to_torch(p, leaf) for p, leaf in flatten(tree).items()}


@pytest.fixture(scope="module")
def ours():
    """Weights, images, and what `train_step` makes of them in float64, as `published`."""
    needs.package("torch")  # with which it is compared
    config = default_config()
    config.model.update(
        {
            "reduction": NET["reduction"],
            "num_parts": NET["parts"],
            "width": NET["width"],
            "embedding_dim": NET["embedding"],
            "part_sampling": "published",
            "dropout": 0.0,
        }
    )
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train_step.augment, "augment", lambda _, x, **__: augment.normalise(x, np.float64)
        )
        recipe = train_step.make_recipe(
            config, num_identities=IDENTITIES, steps_per_epoch=1, axis_name=None
        )
        recipe = recipe._replace(model=recipe.model.clone(dtype=np.float64), tx=KEEP_GRADIENT)
        state = train_step.init_state(recipe, (64, 32))
        rng = np.random.default_rng(0)
        wide = jax.tree.map(lambda x: x + 0.1 * rng.random(x.shape), vars(state))
        state = state.replace(**{k: wide[k] for k in ("params", "batch_stats", "opt_state")})
        images = rng.integers(0, 256, (len(LABELS), 64, 32, 3)).astype(np.uint8)
        batch = {"image": images, "label": LABELS}
        after, metrics = jit(partial(train_step.train_step, recipe=recipe))(state, batch)
        return {
            "images": images,
            "weights": published({"params": state.params, "batch_stats": state.batch_stats}),
            "loss": float(metrics["loss"]),
            "gradients": published({"params": after.opt_state}),
            "stats": published({"batch_stats": after.batch_stats}),
        }


def close(got, expected, floor=0.0):
    """Relative to the array's largest value.

    Some 1e-12 was measured; where a batch normalisation takes a shift away again, the gradient is
    rounding alone, hence the floor.
    """
    got = got.detach().numpy()
    assert np.abs(got - expected).max() <= 1e-9 * np.abs(expected).max() + floor


@pytest.mark.parametrize("kind", ["published", "best", "best, as on a GPU"])
def test_losses_gradients_and_statistics_are_the_same(ours, kind, monkeypatch):
    import torch
    import torch_fast
    import torch_step

    style = kind.split(",")[0]
    monkeypatch.setattr(torch_fast.FastAttention, "all_at_once", lambda *_: kind != style)

    weights = {k: torch.from_numpy(v) for k, v in ours["weights"].items()}
    net = torch_step.make_net(style, weights, identities=IDENTITIES, **NET).double()
    net.load_state_dict(weights, strict=False)  # once more: the first time rounded them
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    images = torch_step.normalise(torch.from_numpy(ours["images"]), torch.float64)
    features, scores = net.streams(images)
    loss = torch_step.multi_task_loss(features, scores, torch.from_numpy(LABELS).long())
    assert loss.item() == pytest.approx(ours["loss"], rel=1e-10)
    loss.backward()
    largest = max(np.abs(g).max() for g in ours["gradients"].values())
    parameters, buffers = dict(net.named_parameters()), dict(net.named_buffers())
    for name, expected in ours["gradients"].items():
        if style == "best" and re.search(r"dimReduceLayer[23]\.conv\.conv\.weight", name):
            channels = net.features.bilinearatt_global.dimReduceLayer1.conv.conv.out_channels
            expected = expected[:, torch_fast.cyclic_order(channels).numpy()]
        close(parameters[name].grad, expected, 1e-13 * largest)
    for name, expected in ours["stats"].items():
        close(buffers[name], expected)


@pytest.mark.parametrize("channels", [1, 2, 5, 8])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_cyclic_forms_equal_those_of_the_published_bi(channels, size):
    torch = needs.package("torch")
    import torch_batnet
    import torch_fast

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, channels, generator=generator, dtype=torch.float64, requires_grad=True)
    order = torch_fast.cyclic_order(channels)
    assert sorted(order.tolist()) == list(range(channels * (channels + 1) // 2))
    w = torch.randn(3, len(order), generator=generator, dtype=torch.float64, requires_grad=True)
    expected = torch_batnet.published_bilinear(x[:, :, None, None]).flatten(1) @ w.t()
    got = torch_fast.QuadraticForms.apply(x, w[:, order], size)
    weights = torch.randn(got.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(got, expected)
    for one, other in zip(
        torch.autograd.grad((got * weights).sum(), (x, w)),
        torch.autograd.grad((expected * weights).sum(), (x, w)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("reduction", [4, 16])
def test_flops_are_those_that_pytorch_counts(reduction):
    torch = needs.package("torch")
    import torch_batnet
    from torch.utils.flop_counter import FlopCounterMode

    net = torch_batnet.TorchBATNet(7, reduction=reduction, parts=2, width=1 / 8, embedding=32)
    with FlopCounterMode(display=False) as counter:
        features, scores = net.streams(torch.rand(4, 3, 128, 64))
        sum(x.sum() for x in (*features, *scores)).backward()
    options = {"size": (128, 64), "width": 1 / 8, "reduction": reduction, "parts": 2}
    reckoned = 4 * training_flops(**options, embedding=32, identities=7)
    # It counts no elementwise products, which make Bi(x) and its mean: some 1 % here.
    assert counter.get_total_flops() == pytest.approx(reckoned, rel=0.02)
    assert counter.get_total_flops() <= reckoned


def test_augmentation_in_pytorch():
    torch = needs.package("torch")
    import torch_step

    torch.manual_seed(0)
    grey = torch.full((64, 32, 16, 3), 200, dtype=torch.uint8)
    out, plain = torch_step.augment(grey), torch_step.normalise(grey)
    # Flipped, enlarged and cropped, grey stays grey; about half of the images are erased in part.
    erased = (out == 0).all(1)
    kept = (~erased)[:, None].expand_as(out)
    torch.testing.assert_close(out[kept], plain[kept])
    assert 16 <= erased.flatten(1).any(1).sum() <= 48
    assert 0.02 < erased.double().mean() < 0.2
    image = torch.randint(0, 256, (1, 32, 16, 3), dtype=torch.uint8).expand(64, -1, -1, -1)
    out, plain = torch_step.augment(image), torch_step.normalise(image)
    assert any(torch.equal(x, plain[0]) for x in out)
    assert any(torch.equal(x, plain[0].flip(2)) for x in out)


@pytest.mark.slow
def test_the_race_runs(tmp_path):
    needs.package("torch")
    command = [sys.executable, "benchmarks/train_step.py", "--quick", "--profile", str(tmp_path)]
    done = subprocess.run(
        [*command, "--only", "ours", "torch-published", "torch-best"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == ["| ours", "| torch-published", "| torch-best"]
    assert all(float(row[2].replace(",", "")) > 0 for row in rows)
    events = next(tmp_path.glob("torch-best*/table.txt")).read_text()
    assert "addmm" in events or "mm" in events
    assert list(tmp_path.glob("ours*/plugins/profile/*/*"))


def test_a_contestant_that_fails_gets_a_line(tmp_path, capsys):
    needs.package("torch")
    import train_step

    args = train_step.parse(["--quick", "--only", "torch-best"])
    tasks = train_step.make_tasks(args, "float32", 0.125, str(tmp_path))  # no weights are there
    results = train_step.race(tasks, 1, None)
    train_step.print_table(tasks, results)
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| torch-best | skipped: ")
    assert "0.125.safetensors" in row
    json.dumps(tasks)


def test_a_contestant_that_is_not_ready_in_time_is_ended(tmp_path, capsys):
    needs.package("torch")
    import train_step

    args = train_step.parse(["--quick", "--only", "torch-best"])
    tasks = train_step.make_tasks(args, "float32", 0.125, str(tmp_path))
    results = train_step.race(tasks, 1, None, at_once=True, patience=0)
    train_step.print_table(tasks, results)
    row = capsys.readouterr().out.splitlines()[-1]
    assert row == "| torch-best | skipped: not ready in time |"
