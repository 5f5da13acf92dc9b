"""What Bi-attention costs: temporaries and time of forward and backward, with and without Bi(x).

    python benchmarks/bi_attention.py [--batch 64] [--reductions 2 4 8 16 32] [--repeats 3]
        [--dtype float32]

The block stands at p2 of the network at width 1 (maps of 16 x 8 x 480), in training. Three forms
are compared. `ours` is `BiAttention`. `rows` concatenates the products of the upper triangle
(`bilinear`), then multiplies. `outer` is the published form: it computes the outer product and
gathers the triangle. Temporaries are the memory that the compiled program needs beside its
arguments and results, as XLA reports it. The forms take turns in one process. The first call of
each is not timed, and the best of the repeats counts. At r = 2 and batch 64 `outer` holds 8 GB: if
memory is short, lower --batch, or leave `outer` out with --ways.
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
from flax import linen as nn

from batnet_jax.models import BiAttention
from batnet_jax.models.bi_attention import bilinear
from batnet_jax.models.layers import ConvBN

MIB = 2**20


def outer_product(x: jax.Array) -> jax.Array:
    """[..., c] to [..., c (c + 1) / 2]: compute all products, keep a triangle."""
    rows, columns = np.triu_indices(x.shape[-1])
    return (x[..., :, None] * x[..., None, :])[..., rows, columns]


class PlainBiAttention(BiAttention):
    """The same block by way of Bi(x)."""

    second_order: Callable[[jax.Array], jax.Array] = bilinear

    @nn.compact
    def mask(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """As `BiAttention.mask`."""
        channels = x.shape[-1]
        shared = {"axis_name": self.axis_name, "dtype": self.dtype}
        mapped = self.second_order(
            ConvBN(channels // self.reduction, name="embed", **shared)(x, train=train)
        )
        local = ConvBN(channels, name="local", **shared)(mapped, train=train)
        mean = mapped.mean((1, 2), keepdims=True)
        return nn.sigmoid(local * ConvBN(channels, name="global", **shared)(mean, train=train))


WAYS = {
    "ours": BiAttention,
    "rows": PlainBiAttention,
    "outer": partial(PlainBiAttention, second_order=outer_product),
}


def compiled(way: str, reduction: int, batch: int, dtype: str):
    """The way's step, and arguments for it."""
    block = WAYS[way](reduction=reduction, dtype=jnp.dtype(dtype))
    x = jnp.asarray(np.random.default_rng(0).random((batch, 16, 8, 480), np.float32), dtype)
    variables = jax.jit(partial(block.init, train=True))(jax.random.key(0), x)

    def step(variables, x, dy):
        def apply(params, x):
            return block.apply(
                variables | {"params": params}, x, train=True, mutable=["batch_stats"]
            )

        out, pull, updates = jax.vjp(apply, variables["params"], x, has_aux=True)
        return out, updates, pull(dy)

    arguments = variables, x, x[::-1]
    return jax.jit(step).lower(*arguments).compile(), arguments


def measure(reduction: int, batch: int, dtype: str, repeats: int, ways: list[str]) -> None:
    """Print the rows of one r."""
    steps = {way: compiled(way, reduction, batch, dtype) for way in ways}
    seconds = {way: [] for way in ways}
    calls = 1 if jax.default_backend() == "cpu" else 10  # a GPU waits for the host else
    for repeat in range(repeats + 1):
        for way, (step, arguments) in steps.items():
            start = time.perf_counter()
            jax.block_until_ready([step(*arguments) for _ in range(calls)])
            if repeat:
                seconds[way].append((time.perf_counter() - start) / calls)
    sizes = {way: step.memory_analysis().temp_size_in_bytes for way, (step, _) in steps.items()}
    for way in ways:
        share = f"1/{sizes[way] / sizes[ways[0]]:.1f}" if way != ways[0] else ""
        ratio = f"{min(seconds[ways[0]]) / min(seconds[way]):.2f}x" if way != ways[0] else ""
        best = 1e3 * min(seconds[way])
        print(
            f"| {reduction} | {way} | {sizes[way] / MIB:,.0f} | {share} | {best:,.1f} | {ratio} |",
            flush=True,
        )


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--reductions", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    device = jax.devices()[0].device_kind
    print(f"{platform.machine()}, {os.cpu_count()} cores, {device}, JAX {jax.__version__}\n")
    print("| r | | temporaries, MiB | ours to this | ms | ours to this |")
    print("|---:|---|---:|---:|---:|---:|")
    for reduction in args.reductions:
        measure(reduction, args.batch, args.dtype, args.repeats, args.ways)


if __name__ == "__main__":
    main()
