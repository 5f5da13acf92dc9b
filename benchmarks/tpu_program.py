"""What the programs of training, evaluation and search need on TPUs, compiled without a TPU.

    pip install -c constraints.txt -e '.[tpu]'
    python benchmarks/tpu_program.py --json runs/tpu.jsonl [--chips v5e-1 v4-4] [--batch 64 256]
        [--programs step embed evaluator search] [--dtype bfloat16 float32] [--precision highest]
        [--width 1] [--reduction 4] [--streams 4] [--size 256 128] [--hlo FOLDER]
    python benchmarks/tpu_program.py --json runs/tpu.jsonl --show

libtpu compiles for chips that it knows by description. Each program is a line of the JSON file; a
program that the file has is not compiled again, so a broken run continues. `--show` prints the
tables of the file.

v4-4 here means 4 chips of v4. The batch counts the images of all chips. MiB is the memory of a chip
at the peak: arguments, results, temporaries and code. Cycles are the compiler's own estimate for
the instructions that have one; collectives and some gathers have none. A part of the step is the
module's name in the instruction's name. The range of milliseconds is that of
`runtime.tpu_program.Needs.seconds`. Nothing runs, so no figure here is a measured time.
"""

import argparse
import json
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax_step import make_config

from batnet_jax.errors import UserError
from batnet_jax.retrieval import search
from batnet_jax.retrieval.scores import block_scores, row_lengths
from batnet_jax.retrieval.streaming import count, prepare_features
from batnet_jax.retrieval.streaming.tiling import PAGE_SLOTS, STEP_SLOTS
from batnet_jax.runtime.devices import parallel
from batnet_jax.runtime.tpu_chips import CHIPS, describe_devices
from batnet_jax.runtime.tpu_program import instructions, needs_of, overflow_of
from batnet_jax.training.ahead import lower_embedding, lower_step

IDENTITIES, STEPS_PER_EPOCH = 751, 200
BLOCK, CHUNK, FEATURES = 1024, 32768, 1024  # of the evaluator on an accelerator; of a feature
MATCHED = 2**15
PARTS = ("part_streams", "bi_attention", "blk1", "blk2", "blk3", "blk4", "head")
"""Modules of the network; the part streams have a blk3 and a blk4 of their own."""
KEY = (
    *("program", "chip", "chips", "dtype", "precision"),
    *("batch", "width", "reduction", "streams", "size"),
)


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """Describe an array."""
    return jax.ShapeDtypeStruct(shape, dtype)


def evaluator_programs(dtype: str) -> dict[str, tuple]:
    """Return (function, arguments, donated) of each program of the evaluator, for one device."""
    integers = partial(array, dtype=jnp.int32)
    scores, page = array(BLOCK, CHUNK), integers(BLOCK, PAGE_SLOTS)
    thresholds, columns, rows = array(BLOCK, PAGE_SLOTS), integers(MATCHED), array(CHUNK, FEATURES)
    at_home = array(BLOCK, dtype=jnp.bool_)
    steps = PAGE_SLOTS // STEP_SLOTS
    counting = partial(count.count_ahead, rows=BLOCK, windows=False, bound=steps)
    features = array(BLOCK, FEATURES, dtype=dtype), array(FEATURES, CHUNK, dtype=dtype)
    numbers = integers(), at_home, integers(steps, 2), integers()
    return {
        "unit length": (partial(prepare_features.unit_columns, dtype=dtype), (rows,), ()),
        "scores": (count.tile_scores, (*features, None), ()),
        "thresholds": (count.read_thresholds, (scores, page, thresholds, columns, at_home), ()),
        "removed": (count.hide_removed, (scores, page, columns, at_home), (0,)),
        "hidden": (count.hide_columns, (scores, integers(BLOCK, 8)), (0,)),
        "count": (counting, (scores, page, thresholds, page, columns, *numbers), (3,)),
    }


def search_programs() -> dict[str, tuple]:
    """Return (function, arguments, donated) of each program of `retrieval.search`, for k = 10."""
    queries, chunk = array(512, FEATURES), array(search.CHUNK, FEATURES)
    best = search.Best(array(512, 10), array(512, 10, dtype=jnp.int32))
    items = array(search.CHUNK)
    scores = array(512, search.CHUNK)
    return {
        "lengths": (row_lengths, (chunk,), ()),
        "scores": (block_scores, (queries, chunk, items, items), ()),
        "best": (search.merge_best, (best, scores, array(dtype=jnp.int32)), ()),
    }


def lower_all(args: argparse.Namespace, case: dict, devices: tuple) -> dict[str, Any]:
    """Return functions that lower the case's programs, by the programs' names."""
    kind, dtype = case["program"], case["dtype"]
    if kind in ("step", "embed"):
        task = {"parts": case["streams"], "accumulate": 1, "size": tuple(case["size"])}
        config = make_config({**case, **task})
        config.batch.identities = case["batch"] // config.batch.images_per_identity
        config.eval.batch = case["batch"]
        people = {"num_identities": IDENTITIES}
        if kind == "embed":
            return {kind: partial(lower_embedding, config, devices, **people)}
        return {
            kind: partial(lower_step, config, devices, **people, steps_per_epoch=STEPS_PER_EPOCH)
        }
    programs = evaluator_programs(dtype) if kind == "evaluator" else search_programs()
    lowered = {}
    for name, (function, arguments, donated) in programs.items():
        stacked = jax.tree.map(lambda a: array(len(devices), *a.shape, dtype=a.dtype), arguments)
        axes = tuple(None if a is None else 0 for a in arguments)
        mapped = parallel(function, in_axes=axes, donate=donated, devices=devices)
        lowered[f"{kind}: {name}"] = partial(mapped.lower, *stacked)
    return lowered


def compile_one(lower: Any, case: dict, hlo: Path | None) -> dict:
    """Compile a program; return what it needs, or that it does not fit."""
    start = time.perf_counter()
    try:
        with jax.default_matmul_precision(case["precision"]):
            compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        overflow = overflow_of(error)
        if not overflow:
            return {"error": str(error)[:500]}
        return {"needed": overflow[0], "there": overflow[1]}
    needs = needs_of(compiled)
    parts: dict[str, int] = defaultdict(int)
    for name, cycles in instructions(compiled.as_text()):
        parts[part_of(name)] += cycles
    if hlo:
        hlo.mkdir(parents=True, exist_ok=True)
        name = "-".join(str(case[k]) for k in KEY[:6]).replace(": ", "_").replace(" ", "_")
        (hlo / f"{name}.txt").write_text(compiled.as_text())
    return {
        "seconds": time.perf_counter() - start,
        **needs._asdict(),
        "memory": needs.memory,
        "milliseconds": [1e3 * s for s in needs.seconds(CHIPS[case["chip"]])],
        "parts": parts,
    }


def part_of(name: str) -> str:
    """Return the part of the network that an instruction belongs to, and its pass, by its name."""
    part = next((p for p in PARTS if p in name), "rest")
    if part == "rest" or "jvp(" not in name:
        return part
    return f"{part} {'back' if 'transpose(' in name else 'forward'}"


def cases(args: argparse.Namespace) -> list[dict]:
    """Return the cases that the command line asks for."""
    found = []
    for named in args.chips:
        chip, number = named.rsplit("-", 1)
        for program in args.programs:
            network = program in ("step", "embed")
            dtypes = ["float32"] if program == "search" else args.dtype
            found += [
                {
                    "program": program,
                    "chip": chip,
                    "chips": int(number),
                    "dtype": dtype,
                    "precision": args.precision,
                    "batch": batch,
                    "width": args.width if network else None,
                    "reduction": args.reduction if network else None,
                    "streams": args.streams if network else None,
                    "size": args.size if network else None,
                }
                for batch in (args.batch if network else [None])
                for dtype in dtypes
            ]
    return found


def read(path: Path) -> list[dict]:
    """Return the lines of the JSON file."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def key_of(row: dict) -> tuple:
    """Return what tells two programs apart."""
    return tuple(str(row[name]) for name in KEY)


def show(rows: list[dict]) -> None:
    """Print the tables."""
    print(
        "| program | chips | type | batch | compiling, s | MiB | of the chip's | code, MiB | "
        "GFLOP | GB moved | Mcycles | ms |\n|---|---|---|" + "---:|" * 9
    )
    for row in rows:
        dtype = row["dtype"] + (", exact" if row["precision"] == "highest" else "")
        streams = "" if row["streams"] in (4, None) else f", {row['streams']} part streams"
        cells = [
            row["program"] + streams,
            f"{row['chips']} x {row['chip']}",
            dtype,
            row["batch"] or "",
        ]
        if "memory" in row:
            there = CHIPS[row["chip"]].memory
            low, high = row["milliseconds"]
            cells += [
                f"{row['seconds']:,.0f}",
                f"{row['memory'] / 2**20:,.0f}",
                f"{100 * row['memory'] / there:.0f} %",
                f"{row['code'] / 2**20:,.0f}",
                f"{row['flops'] / 1e9:,.1f}",
                f"{row['moved'] / 1e9:,.1f}",
                f"{row['cycles'] / 1e6:,.1f}",
                f"{low:.3g} to {high:.3g}",
            ]
        elif "needed" in row:
            share = f"{100 * row['needed'] / row['there']:.0f} %"
            cells += ["", f"{row['needed'] / 2**20:,.0f}", share, *[""] * 4, "does not fit"]
        else:
            cells += ["", row["error"][:60], *[""] * 6]
        print("| " + " | ".join(map(str, cells)) + " |")
    for row in rows:
        if row["program"] == "step" and "parts" in row:
            print(f"\nMcycles of the step, {row['chips']} x {row['chip']}, {row['dtype']}:")
            parts = sorted(row["parts"].items(), key=lambda item: -item[1])
            print("; ".join(f"{name} {cycles / 1e6:.1f}" for name, cycles in parts))


def main() -> None:
    """Compiles what is not in the file yet, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--chips", nargs="+", default=["v5e-1"], metavar="CHIP-NUMBER")
    kinds = ("step", "embed", "evaluator", "search")
    parser.add_argument("--programs", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--batch", type=int, nargs="+", default=[64])
    dtypes = ("bfloat16", "float32")
    parser.add_argument("--dtype", nargs="+", choices=dtypes, default=dtypes)
    parser.add_argument("--precision", choices=("default", "highest"), default="default")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--reduction", type=int, default=4)
    parser.add_argument("--streams", type=int, default=4, help="part streams")
    parser.add_argument("--size", type=int, nargs=2, default=[256, 128])
    parser.add_argument("--hlo", type=Path, metavar="FOLDER", help="keep the programs here")
    parser.add_argument("--show", action="store_true", help="print the tables, compile nothing")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # JAX must not look for a TPU here
    known = {(*key_of(row)[1:], row["program"].split(":")[0]) for row in read(args.json)}
    for case in [] if args.show else cases(args):
        if (*key_of(case)[1:], case["program"]) in known:
            continue
        try:
            devices = describe_devices(case["chip"], case["chips"])
        except UserError as error:
            raise SystemExit(f"error: {error}") from None
        for name, lower in lower_all(args, case, devices).items():
            row = {
                **case,
                "program": name,
                **compile_one(lower, {**case, "program": name}, args.hlo),
            }
            args.json.parent.mkdir(parents=True, exist_ok=True)
            with args.json.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps({k: row[k] for k in row if k != "parts"}), flush=True)
    show(read(args.json))


if __name__ == "__main__":
    main()
