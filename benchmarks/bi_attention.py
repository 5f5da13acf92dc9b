"""Bi-attention with and without its second-order map: memory and time, forward and backward.

    python benchmarks/bi_attention.py [--reductions 2 4 8 16 32] [--batch 64] [--repeats 5]
        [--dtype bfloat16]

A block for 480 channels and 16 x 8 pixels, as behind inception 4 (p2) of a 256 x 128 image. The
naive block is Bi() as the field writes it, all products of two channels, of which half are taken;
a 1x1 convolution of them, their mean. "rows" is the better one that makes the triangle's rows and
nothing else, which was ours before. All are timed by turns in one process; seconds are the fastest
of the repeats. Temporaries are what XLA's compiled program says that it allocates besides
arguments and results.
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


def gathered(x: jax.Array) -> jax.Array:
    """Bi() from the whole outer product."""
    channels = x.shape[-1]
    first, second = np.triu_indices(channels)
    products = x[..., :, None] * x[..., None, :]
    return products.reshape(*x.shape[:-1], -1)[..., first * channels + second]


class Naive(nn.Module):
    """Eq. 1-5 as they are written."""

    form: Callable
    reduction: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [b, h, w, c] to the masked [b, h, w, c]."""
        channels, shared = x.shape[-1], {"dtype": self.dtype}
        embedded = ConvBN(channels // self.reduction, name="embed", **shared)(x, train=train)
        pairs = self.form(embedded)
        local = ConvBN(channels, name="local", **shared)(pairs, train=train)
        mean = pairs.mean((1, 2), keepdims=True)
        return x * nn.sigmoid(local * ConvBN(channels, name="global", **shared)(mean, train=train))


def loss(variables: dict, x: jax.Array, model: nn.Module) -> jax.Array:
    """Anything that depends on all of the result."""
    y, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
    return jnp.square(y.astype(jnp.float32)).sum()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reductions", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    where = f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}"
    print(f"{where}, jax {jax.__version__}, batch {args.batch}, {args.dtype}\n")
    print("| r | pairs | s: naive | rows | ours | time | MiB: naive | rows | ours | memory |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    x = jnp.asarray(np.random.default_rng(0).random((args.batch, 16, 8, 480)), args.dtype)
    for reduction in args.reductions:
        shared = {"reduction": reduction, "dtype": x.dtype}
        models = [Naive(gathered, **shared), Naive(bilinear, **shared), BiAttention(**shared)]
        variables = jax.jit(partial(models[0].init, train=True))(jax.random.key(0), x)
        steps = [
            jax.jit(jax.grad(partial(loss, model=model), argnums=(0, 1)))
            .lower(variables, x)
            .compile()
            for model in models
        ]
        memory = [step.memory_analysis().temp_size_in_bytes / 2**20 for step in steps]
        seconds = [np.inf] * 3
        for _ in range(args.repeats + 1):  # the first one warms up
            for k, step in enumerate(steps):
                start = time.perf_counter()
                jax.block_until_ready(step(variables, x))
                seconds[k] = min(seconds[k], time.perf_counter() - start)
        channels = 480 // reduction
        print(
            f"| {reduction} | {channels * (channels + 1) // 2:,} | {seconds[0]:.2f} |"
            f" {seconds[1]:.2f} | {seconds[2]:.2f} | {seconds[2] / seconds[0]:.2f}x |"
            f" {memory[0]:,.0f} | {memory[1]:,.0f} | {memory[2]:,.0f} |"
            f" {memory[0] / memory[2]:.1f}x |",
            flush=True,
        )


if __name__ == "__main__":
    main()
