"""The gradient of a convolution's kernel: XLA's own convolution against a product for each tap.

    python benchmarks/convolution.py [--batch 16] [--repeats 7]

The shapes are those of the network at width 1 and 256 x 128. The two take turns; milliseconds are
the median, MiB the temporaries of the compiled program.
"""

import argparse
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from batnet_jax.models.layers import _convolve_backward, _plain_convolution

SHAPES = (  # rows and columns of the input, channels, features, kernel, stride
    (256, 128, 3, 64, 7, 2),
    (64, 32, 64, 192, 3, 1),
    (32, 16, 128, 192, 3, 1),
    (16, 8, 112, 224, 3, 1),
    (16, 8, 24, 64, 5, 1),
    (8, 4, 192, 384, 3, 1),
)


def compiled(function, *arguments):
    """The compiled function and the MiB of its temporaries."""
    program = jax.jit(function).lower(*arguments).compile()
    return program, program.memory_analysis().temp_size_in_bytes / 2**20


def main() -> None:
    """Print a row for each shape."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    print(f"{jax.default_backend()}, {os.cpu_count()} cores, batch {args.batch}\n")
    print("| map | kernel | convolution, ms | taps, ms | x | MiB | MiB |")
    print("|---|---|---:|---:|---:|---:|---:|")
    rng = np.random.default_rng(0)
    for rows, columns, channels, features, side, stride in SHAPES:
        shapes = (
            (args.batch, rows, columns, channels),
            (side, side, channels, features),
            (args.batch, rows // stride, columns // stride, features),
        )
        x, kernel, dy = (jnp.asarray(rng.standard_normal(s, np.float32)) for s in shapes)
        how = (stride, stride), ((side // 2, side // 2),) * 2

        def by_convolution(x, kernel, dy, how=how):
            return jax.vjp(lambda kernel: _plain_convolution(x, kernel, *how), kernel)[1](dy)[0]

        def by_taps(x, kernel, dy, how=how):
            return _convolve_backward(*how, (x, kernel), dy)[1]

        ways = [compiled(f, x, kernel, dy) for f in (by_convolution, by_taps)]
        seconds = [[], []]
        for _ in range(args.repeats):
            for (program, _), found in zip(ways, seconds, strict=True):
                start = time.perf_counter()
                program(x, kernel, dy).block_until_ready()
                found.append(time.perf_counter() - start)
        own, taps = (1000 * statistics.median(found) for found in seconds)
        print(
            f"| {rows} x {columns} | {side} x {side}, {channels} to {features}, / {stride} |"
            f" {own:.1f} | {taps:.1f} | {taps / own:.2f} | {ways[0][1]:.0f} | {ways[1][1]:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
