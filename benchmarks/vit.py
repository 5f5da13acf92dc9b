"""The vision transformer beside PyTorch's scaled_dot_product_attention, on a CPU, in one process.

    python benchmarks/vit.py [--backbone vit_s16 vit_b16] [--batch 8] [--repeats 5]

`embed` is the class token of prepared images of 256 x 128. `step` adds BN, a classifier of 751
people, the cross-entropy, the gradient and Adam. Both networks have the same weights, and PyTorch's
is `torch_vit.TorchViT`. They take turns, call by call; the first call is not timed, and the best
call counts, because the machine may have other work. The class tokens must agree to 1e-3.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch_vit
from torch import nn
from torch.nn import functional

from batnet_jax.models import BATNet, vit
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.models.preprocess import normalise
from batnet_jax.weights.convert import flatten, to_torch
from batnet_jax.weights.names import NAMES, VIT
from batnet_jax.weights.vit_names import grid_of

SIZE = (256, 128)
PEOPLE = 751  # Market-1501's
RATE = 1e-5


def make_ours(backbone: str, variables: dict, images: np.ndarray, labels: np.ndarray) -> dict:
    """Return our functions without arguments: `embed`, which returns features, and `step`."""
    model = BATNet(
        PEOPLE, backbone=backbone, attention="none", num_parts=0, neck="bnneck", embedding_dim=0,
        dropout=0.0,
    )  # fmt: skip
    tx = optax.adam(RATE)

    @jax.jit
    def embed(variables, images):
        return model.apply(variables, images, train=False)["features"]["appearance"]

    @partial(jax.jit, donate_argnums=0)
    def step(state, images, labels):
        params, stats, moments = state

        def loss(params):
            own = {"params": params, "batch_stats": stats}
            outputs, new = model.apply(own, images, train=True, mutable=["batch_stats"])
            scores = outputs["scores"]["appearance"]
            error = optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()
            return error, new["batch_stats"]

        (error, stats), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = tx.update(gradients, moments)
        return (optax.apply_updates(params, updates), stats, moments), error

    variables = jax.tree.map(jnp.array, variables)
    params = jax.tree.map(jnp.array, variables["params"])
    state = [(params, variables["batch_stats"], tx.init(params))]
    on_device = jnp.asarray(images)

    def take():
        state[0], error = step(state[0], on_device, labels)
        error.block_until_ready()

    return {"embed": lambda: np.asarray(embed(variables, on_device)), "step": take}


class Classified(nn.Module):
    """PyTorch's network with BN without shift and a classifier."""

    def __init__(self, network: nn.Module, channels: int):
        super().__init__()
        self.network, self.neck = network, nn.BatchNorm1d(channels)
        self.classifier = nn.Linear(channels, PEOPLE, bias=False)

    def forward(self, images):
        """Return the features behind the neck."""
        return self.neck(self.network(images)[:, 0])


def make_theirs(backbone: str, variables: dict, images: np.ndarray, labels: np.ndarray) -> dict:
    """Return PyTorch's functions, as `make_ours` does."""
    variant = vit.BACKBONES[backbone]
    channels = vit.embed_dim(variant, 1.0)
    grid = grid_of(SIZE, variant)
    network = torch_vit.TorchViT(channels=channels, heads=variant.heads, grid=grid)
    state = network.state_dict()
    for path, value in flatten(variables).items():
        if (name := NAMES[VIT](path)) and name != "pos_embed":
            state[name] = torch.from_numpy(to_torch(path, value)).reshape(state[name].shape)
    positions = torch.from_numpy(variables["params"]["blk1"]["positions"]).reshape(1, -1, channels)
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, channels), positions], 1)
    network.load_state_dict(state)
    model = Classified(network, channels)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    prepared = images * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]
    prepared = torch.from_numpy((2 * prepared - 1).astype(np.float32).transpose(0, 3, 1, 2).copy())
    targets = torch.from_numpy(labels)

    def embed():
        model.eval()
        with torch.inference_mode():
            return model(prepared).numpy()

    def step():
        model.train()
        optimizer.zero_grad()
        functional.cross_entropy(model.classifier(model(prepared)), targets).backward()
        optimizer.step()

    return {"embed": embed, "step": step}


def best_of(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the seconds of the best call of each way."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name in sorted(ways, reverse=bool(number % 2)):
            start = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: min(own[1:]) for name, own in seconds.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", nargs="+", default=["vit_s16", "vit_b16"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, jax {jax.__version__}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    print("| network | batch | | ours, ms | PyTorch, ms | PyTorch / ours |")
    print("|---|---:|---|---:|---:|---:|")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.batch, *SIZE, 3), np.uint8)
    images, labels = np.asarray(normalise(images)), rng.integers(0, PEOPLE, options.batch)
    for backbone in options.backbone:
        model = BATNet(
            PEOPLE, backbone=backbone, attention="none", num_parts=0, neck="bnneck",
            embedding_dim=0,
        )  # fmt: skip
        variables = draw_variables(model, SIZE, 0)
        ours = make_ours(backbone, variables, images, labels)
        theirs = make_theirs(backbone, variables, images, labels)
        np.testing.assert_allclose(ours["embed"](), theirs["embed"](), atol=1e-3)
        for name in ("embed", "step"):
            best = best_of({"ours": ours[name], "theirs": theirs[name]}, options.repeats)
            cells = [f"{1000 * best[who]:.0f}" for who in ("ours", "theirs")]
            cells.append(f"{best['theirs'] / best['ours']:.2f}")
            row = [f"`{backbone}`", str(options.batch), name, *cells]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
