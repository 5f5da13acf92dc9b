"""Convolutions on a CPU, by the two libraries that XLA has for them: YNNPACK's and Eigen's.

    python benchmarks/convolution.py [--batch 16] [--repeats 7]

YNNPACK is the default of jax 0.10 and 0.11; `batnet_jax/runtime/xla_flags.py` chooses Eigen. The
shapes are taken from the network at width 1 and 256 x 128. The two libraries take turns.
Milliseconds are the median; "x" is YNNPACK's time divided by Eigen's.
"""

import argparse
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from batnet_jax.runtime.xla_flags import LIBRARIES, OPTION

SHAPES = (  # rows and columns of the input, channels, features, kernel, stride
    (256, 128, 3, 64, 7, 2),
    (64, 32, 64, 192, 3, 1),
    (32, 16, 128, 192, 3, 1),
    (16, 8, 112, 224, 3, 1),
    (16, 8, 24, 64, 5, 1),
    (8, 4, 192, 384, 3, 1),
)
WAYS = (f"{LIBRARIES},individual_convolution", LIBRARIES)


def compiled(function, way: str, *arguments):
    """The program for a choice of what YNNPACK takes."""
    kinds = ",".join(f"LIBRARY_FUSION_TYPE_{kind.upper()}" for kind in way.split(","))
    return jax.jit(function).lower(*arguments).compile(compiler_options={OPTION: kinds})


def pieces(side: int, stride: int) -> tuple:
    """The convolution, its gradient by the map and that by the kernel."""

    def convolve(x, kernel, dy):
        layout = ("NHWC", "HWIO", "NHWC")
        padding = ((side // 2, side // 2),) * 2
        strides = (stride, stride)
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout)

    def by_map(x, kernel, dy):
        return jax.vjp(lambda x: convolve(x, kernel, dy), x)[1](dy)[0]

    def by_kernel(x, kernel, dy):
        return jax.vjp(lambda kernel: convolve(x, kernel, dy), kernel)[1](dy)[0]

    return convolve, by_map, by_kernel


def main() -> None:
    """Print a row for each shape."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    if jax.default_backend() != "cpu":
        parser.error("these are the CPU's: set JAX_PLATFORMS=cpu")
    print(f"{os.cpu_count()} cores, batch {args.batch}; ms by YNNPACK, by Eigen\n")
    print("| map | kernel | forward | | x | by map | | x | by kernel | | x |")
    print("|---|---|" + "---:|" * 9)
    rng = np.random.default_rng(0)
    for rows, columns, channels, features, side, stride in SHAPES:
        shapes = (
            (args.batch, rows, columns, channels),
            (side, side, channels, features),
            (args.batch, rows // stride, columns // stride, features),
        )
        arrays = [jnp.asarray(rng.standard_normal(s, np.float32)) for s in shapes]
        cells = []
        for piece in pieces(side, stride):
            programs = [compiled(piece, way, *arrays) for way in WAYS]
            seconds = [[], []]
            for _ in range(args.repeats):
                for program, found in zip(programs, seconds, strict=True):
                    start = time.perf_counter()
                    program(*arrays).block_until_ready()
                    found.append(time.perf_counter() - start)
            ynn, eigen = (1000 * statistics.median(found) for found in seconds)
            cells.append(f"{ynn:.1f} | {eigen:.1f} | {ynn / eigen:.2f}")
        size = f"{rows} x {columns} | {side} x {side}, {channels} to {features}, / {stride}"
        print(f"| {size} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
