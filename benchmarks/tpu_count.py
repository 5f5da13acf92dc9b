"""The counting of the evaluator on a TPU: XLA's sums against the kernel, compiled without a TPU.

    pip install -c constraints.txt -e '.[tpu]'
    python benchmarks/tpu_count.py [--chips v4 v5e v5p v6e] [--json FILE]

libtpu writes the instructions that it has scheduled. One bundle of instructions takes a cycle if
the memory keeps up. A chip with two cores (v4, v5p) counts the bundles of one. The tile has 1,024
queries x 32,768 gallery items, and each query 128 relevant items. `no ties` is a chunk that holds
no relevant item of the queries, as most chunks of a large gallery are; `ties` is a chunk where each
round of 2,048 columns holds some. Nothing runs, so no figure here is a measured time.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
from tpu_program import CHUNK, array, evaluator_programs

from batnet_jax.retrieval.streaming import count_mosaic
from batnet_jax.retrieval.streaming.tiling import PAGE_SLOTS, STEP_SLOTS
from batnet_jax.runtime.devices import parallel
from batnet_jax.runtime.tpu_chips import CHIPS, describe_devices

_LINE = re.compile(r"^ *(0x[0-9a-f]+) +(\w\w)?:? ?(>*) *\{(.*)")


def compile_one(chip: str, method: str) -> None:
    """Compile one method for a chip; libtpu's flags say where to write the instructions."""
    jax.config.update("jax_platforms", "cpu")  # JAX must not look for a TPU here
    function, arguments, donated = evaluator_programs("float32")["count"]
    if method == "kernel":
        jax.default_backend = lambda: "tpu"  # as where it will run
        function, arguments = count_mosaic.count_ahead, arguments[:7]
    stacked = jax.tree.map(lambda a: array(1, *a.shape, dtype=a.dtype), arguments)
    axes = (0,) * len(arguments)
    devices = describe_devices(chip, 1)
    parallel(function, in_axes=axes, donate=donated, devices=devices).lower(*stacked).compile()


def schedules(chip: str, method: str) -> dict[str, str]:
    """Return the bundles of each part of a method's program, by the part's name."""
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        command = [sys.executable, __file__, "--compile", chip, method]
        subprocess.run(command, check=True, env={**os.environ, "LIBTPU_INIT_ARGS": flags})
        files = Path(folder).glob("*[0-9]-final_bundles.txt")
        return {path.name.split("-")[1]: path.read_text() for path in files}


def bundles_of(text: str) -> list[tuple[int, str, int, str]]:
    """Return (address, marker, depth of loops, instructions) of each bundle."""
    found = filter(None, map(_LINE.match, text.splitlines()))
    return [(int(m[1], 16), m[2] or "", len(m[3]), m[4]) for m in found]


def bundles_of_sums(parts: dict[str, str]) -> int:
    """Return the bundles that the sums take for a page of full rows."""
    total = 0
    for name, text in parts.items():
        if name.startswith("convert_reduce_fusion"):
            bounds = re.findall(r"iteration_bounds: \(([\d, ]+)\)", text)[0].split(",")
            rounds = int(bounds[0]) * int(bounds[1])
            bundles = bundles_of(text)
            start = next(address for address, marker, *_ in bundles if marker == "LB")
            end = max(address for address, _, _, code in bundles if "sbr.rel (!" in code)
            total += rounds * (end - start + 1)
    return total * PAGE_SLOTS // STEP_SLOTS


def bundles_of_kernel(parts: dict[str, str]) -> dict[str, int]:
    """Return the bundles that the kernel takes without ties and with ties in each round."""
    text = next(text for name, text in parts.items() if name.startswith("count_"))
    bundles = bundles_of(text)
    inner = [bundle for bundle in bundles if bundle[2] == 3]
    step = sum(bundle[2] == 2 for bundle in bundles)
    branch = next(address for address, _, _, code in inner if "sbr.rel" in code)
    other = next(address for address, marker, *_ in inner if marker == "PF")
    first, last = inner[0][0], inner[-1][0]
    branches = sorted((other - first, branch - first + last - other + 1))
    rounds = CHUNK // count_mosaic._ROUND
    programs = int(re.findall(r"iteration_bounds: \((\d+)\)", text)[0])
    steps = programs * PAGE_SLOTS // STEP_SLOTS
    return {
        name: steps * (step + rounds * length)
        for name, length in zip(("no ties", "ties"), branches, strict=True)
    }


def main() -> None:
    """Compiles both methods for each chip and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--chips", nargs="+", choices=list(CHIPS), default=["v5e"])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--compile", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.compile:
        return compile_one(*args.compile)
    rows = []
    for chip in args.chips:
        sums = bundles_of_sums(schedules(chip, "sums"))
        rows.append({"chip": chip, "sums": sums, **bundles_of_kernel(schedules(chip, "kernel"))})
    if args.json:
        args.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print("| chip | sums, Mbundles | kernel, no ties | kernel, ties |\n|---|---:|---:|---:|")
    for row in rows:
        cells = [f"{row['sums'] / 1e6:.1f}"]
        cells += [
            f"{row[k] / 1e6:.1f} ({row['sums'] / row[k]:.2f}x fewer)" for k in ("no ties", "ties")
        ]
        print(f"| {row['chip']} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
