"""What XLA makes of a training step for an NVIDIA H100, without one: its kernels, counted by kind.

    pip install -e '.[gpu]'
    python benchmarks/gpu_program.py [--batch 64] [--width 1] [--reduction 4] [--dtype bfloat16]
        [--hlo FILE]

The step of `train_step.py` is compiled ahead of time, for a description of the device. A kernel is
an instruction of the compiled program: a fusion, a call of cuBLAS or cuDNN, or a copy. A kernel in
a loop counts once for each round of the loop.

MB is the memory that kernels read and write, by the shapes of their operands and results, without
workspaces. A kernel that changes a part of an array counts with the whole array. The count does not
tell which kernels cuBLAS and cuDNN choose, nor how long a kernel takes: that needs a GPU and
`kernels.py`. XLA chooses between Triton and cuBLAS by measuring, so here cuBLAS computes all
products.
"""

import argparse
import math
import os
import re
from collections import defaultdict
from functools import partial
from pathlib import Path

from batnet_jax.runtime.tpu_program import called_by, computations

FLAGS = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 device_memory_size: 84929347584 l2_cache_size: 52428800
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""XLA's description of a device, in its own words."""

WIDTHS = {"bf16": 2, "f16": 2, "f64": 8, "s64": 8, "u64": 8, "pred": 1, "u8": 1, "s8": 0}  # else 4
SHAPE = re.compile(r"\b(pred|bf16|[fsu]\d+)\[([\d,]*)\]")
LINE = re.compile(r"(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
KINDS = (  # of a fusion, by what is in it: the first that is
    ("reduction", r" reduce\("),
    ("transposition", r" transpose\("),
    ("concatenation", r" concatenate\("),
    ("scatter", r" scatter\("),
    ("update in place", r" dynamic-update-slice\("),
    ("elementwise", ""),
)


def program(task: dict) -> tuple[str, int]:
    """Return the compiled step as text (HLO), and the number of arrays in its state.

    Args:
      task: batch, size, width, reduction, dtype, parts and identities, as in `train_step.py`.
    """
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
    os.environ["JAX_PLATFORMS"] = ""  # all, CUDA's plugin too
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # it wants a driver
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import NamedSharding, PartitionSpec
    from jax_step import make_recipe

    from batnet_jax.step import train_step
    from batnet_jax.step.packing import pack_state

    try:
        h100 = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=H100)
    except NotImplementedError:
        raise SystemExit("error: JAX's CUDA plugin is not there: pip install -e '.[gpu]'") from None
    here = NamedSharding(topologies.make_mesh(h100, (1,), ("devices",)), PartitionSpec())
    recipe = make_recipe(task, axis_name=None)
    size, batch = tuple(task["size"]), task["batch"]
    shapes = (
        pack_state(train_step.init_state(recipe, size), kernels=True),
        {
            "image": jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8),
            "label": jax.ShapeDtypeStruct((batch,), jnp.int32),
        },
    )
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes
    )
    step = jax.jit(partial(train_step.train_step, recipe=recipe), donate_argnums=0)
    return step.lower(*placed).compile().as_text(), len(jax.tree.leaves(placed[0]))


def count_kernels(text: str) -> dict[tuple[str, str], list[float]]:
    """Return [kernels, bytes] by (kind, part of the step): forward, backward or rest."""
    lines, entry = computations(text)
    counts: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0])

    def walk(name: str, times: int) -> None:
        shapes = {}
        for line in lines[name]:
            match = LINE.match(line)
            if not match:
                continue
            result, shape, code, rest = match.groups()
            shapes[result] = shape
            if code == "while":
                trips = re.search(r'known_trip_count":\{"n":"(\d+)"', rest)
                walk(called_by(rest, "body"), times * int(trips[1] if trips else 1))
            elif code == "call":
                walk(called_by(rest, "to_apply"), times)
            elif code in ("fusion", "custom-call", "copy"):
                kind = code if code == "copy" else "product, convolution"
                if code == "fusion":
                    inside = " ".join(lines[called_by(rest, "calls")])
                    kind = next(kind for kind, sign in KINDS if re.search(sign, inside))
                operands = re.findall(r"%([\w.\-]+)", rest.split(")")[0])
                moved = sum(map(size_of, [shape, *(shapes.get(o, "") for o in operands)]))
                total = counts[kind, part_of(rest)]
                total[0] += times
                total[1] += times * moved

    walk(entry, 1)
    return counts


def size_of(shape: str) -> int:
    """Return the bytes of a shape or of a tuple of shapes, without workspaces."""
    return sum(
        WIDTHS.get(kind, 4) * math.prod(int(side) for side in sides.split(",") if side)
        for kind, sides in SHAPE.findall(shape)
    )


def part_of(rest: str) -> str:
    """Return the part of the step that an instruction belongs to, by the name from JAX."""
    name = re.search(r'op_name="([^"]*)"', rest)
    if not name or "jvp(" not in name[1]:
        return "rest"
    return "backward" if "transpose(" in name[1] else "forward"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--reduction", type=int, default=4)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--size", type=int, nargs=2, default=[256, 128])
    parser.add_argument("--hlo", type=Path, metavar="FILE", help="write the program here")
    args = parser.parse_args()
    text, arrays = program({**vars(args), "parts": 4, "accumulate": 1, "identities": 751})
    if args.hlo:
        args.hlo.write_text(text)
        print(f"the program is in {args.hlo}")
    print(f"{arrays:,} arrays of the state go in and out\n")
    counts = count_kernels(text)
    parts = ("forward", "backward", "rest")
    print("| kernels | " + " | ".join(parts) + " | all | MB |\n|---" + "|---:" * 5 + "|")
    kinds = sorted({kind for kind, _ in counts}, key=lambda k: -sum(counts[k, p][0] for p in parts))
    for kind in [*kinds, "all"]:
        chosen = kinds if kind == "all" else [kind]
        numbers = [sum(counts[k, part][0] for k in chosen) for part in parts]
        moved = sum(counts[k, part][1] for k in chosen for part in parts) / 1e6
        cells = " | ".join(f"{number:,.0f}" for number in [*numbers, sum(numbers), moved])
        print(f"| {kind} | {cells} |")


if __name__ == "__main__":
    main()
