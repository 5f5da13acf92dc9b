"""What a training step costs: ours against PyTorch's, on the same weights and batch, in one run.

    pip install -e '.[benchmark]'       # and '.[gpu]', and PyTorch for CUDA, on a GPU
    python benchmarks/train_step.py [--device cpu] [--batch 16] [--width 1 0.25] [--reduction 4]
        [--dtype float32] [--only ours torch-best] [--repeats 5] [--profile DIR] [--quick]
    python benchmarks/train_step.py --device gpu --batch 64 --dtype bfloat16 float32 --profile DIR

All contestants take the whole step, from a batch of bytes on the host to new weights: augmentation,
forward, the losses of section 4.3, backward, Adam with L2. `tests/house/test_benchmarks.py`
compares their losses and gradients in float64.

* ours: `train_step` under `jax.pmap` with a donated state, as `training/loop.py` runs it.
* torch-published: our PyTorch version of the published network, eager, channels first, with Bi() by
  the outer product and its diagonals.
* torch-best: the fastest rewrite in PyTorch that we found, `torch_fast.py`: cyclic shifts, channels
  last, fused Adam.
* torch-published-compiled, torch-best-compiled: the same under torch.compile; its first step, which
  compiles, is the compile time.
* torch-best-blocks: torch.compile of each block by itself, so that blocks alike are compiled once.
* torch-best-captured, torch-best-blocks-captured (GPU): the whole step as one CUDA graph.

Each contestant runs in its own process, and the contestants take turns. A repetition consists of
several steps of each contestant, because the first step after a pause may be slower: the system
must find memory for it. With bfloat16, ours has `model.dtype=bfloat16`, and PyTorch runs under
autocast. The columns:

* compile: seconds, with nothing cached.
* ms, median and least: of a step, over the repetitions. images/s follows from the median.
* peak: of memory, in MiB. On a CPU it is the growth of the process during the steps, without
  weights and Adam's state. On a GPU it is all memory that the allocator reports; JAX's allocator
  includes the memory that choosing kernels took.
* temporaries: the memory that XLA reserves beside state and batch, in MiB.
* augment: ms of augmentation alone, which is also a part of the step.
* of peak: the step's GFLOP/s, by `network_cost.py`, divided by the GFLOP/s of one large matrix
  product of the same type in the same process.

With --at-once all contestants start and compile side by side, and take turns once all are ready.
This saves machine time. --patience ends a contestant that is not ready after that number of
minutes. With --apart each contestant ends before the next one starts. This saves memory. --profile
writes a trace of 3 steps of each contestant for TensorBoard or Perfetto, and a table for PyTorch.
--accumulate divides the batch of ours into that number of parts.
"""

import argparse
import ctypes
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from network_cost import training_flops
from race import race, search_path

MIB = 2**20
PEERS = (
    "torch-published",
    "torch-best",
    "torch-published-compiled",
    "torch-best-compiled",
    "torch-best-blocks",
    "torch-best-captured",
    "torch-best-blocks-captured",
)
IDENTITIES, EMBEDDING, PARTS, IMAGES = 751, 512, 4, 4  # Market-1501's; T; K of a batch
SIDE = {"cpu": 2048, "gpu": 8192}  # of the matrices whose product is the peak


def resident(which: str) -> int:
    """Bytes of this process: "VmRSS" now, or "VmHWM", the most since the peak was reset."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(which + r":\s+(\d+) kB", status)[1])


def draw_batch(task: dict) -> None:
    """Add `images` and `labels` to a task: K images of each identity."""
    rng = np.random.default_rng(0)
    task["images"] = rng.integers(0, 256, (task["batch"], *task["size"], 3), dtype=np.uint8)
    task["labels"] = np.repeat(np.arange(task["batch"] // IMAGES), IMAGES)


def work(task: dict) -> None:
    """Run a contestant's process: each line on stdin is a request, each on stdout an answer."""
    channel, sys.stdout = sys.stdout, sys.stderr
    name = task["name"]
    if name == "ours":
        from jax_step import Contestant as kind  # noqa: N813
    else:
        from torch_step import Contestant as kind  # noqa: N813
    draw_batch(task)
    contestant = kind(name, task)
    answer = contestant.compile()
    contestant.take(task["steps"])
    ctypes.CDLL(None).malloc_trim(0)  # what compiling has left
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    contestant.start_peak()
    before = resident("VmRSS")
    print(json.dumps(answer), file=channel, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request == "take":
            answer = contestant.take(task["steps"]) / task["steps"]
        elif request == "end":
            peak = contestant.peak() or resident("VmHWM") - before
            answer = {"peak": peak, **contestant.apart()}
        else:
            contestant.profile(Path(request["profile"]))
            answer = None
        print(json.dumps(answer), file=channel, flush=True)


def print_table(tasks: list[dict], results: list[dict]) -> None:
    """A row a contestant; "x" is how many times slower than ours, by the medians."""
    ours = next((r for t, r in zip(tasks, results, strict=True) if t["name"] == "ours"), {})
    print(
        "| | compile, s | ms, median | least | x | images/s | peak, MiB | temporaries, MiB "
        "| augment, ms | GFLOP/s | of peak |\n|---" + "|---:" * 10 + "|"
    )
    for task, figures in zip(tasks, results, strict=True):
        if "error" in figures or "product" not in figures:
            print(f"| {task['name']} | skipped: {figures.get('error', '')} |", flush=True)
            continue
        median = statistics.median(figures["seconds"])
        flops = task["batch"] * task["flops"] / median
        peak = 2 * task["side"] ** 3 / figures["product"]
        cells = [
            f"{figures['compile']:.1f}" if "compile" in figures else "",
            f"{1e3 * median:,.1f}",
            f"{1e3 * min(figures['seconds']):,.1f}",
            f"{median / statistics.median(ours['seconds']):.2f}" if "product" in ours else "",
            f"{task['batch'] / median:,.1f}",
            f"{figures['peak'] / MIB:,.0f}",
            f"{figures['temporaries'] / MIB:,.0f}" if "temporaries" in figures else "",
            f"{1e3 * figures['augment']:,.1f}",
            f"{flops / 1e9:,.0f}",
            f"{flops / peak:.0%} of {peak / 1e9:,.0f}",
        ]
        print(f"| {task['name']} | {' | '.join(cells)} |", flush=True)


def machine(device: str) -> str:
    """What ran, in words."""
    names = ("jax", "torch")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    cores = f"{os.cpu_count()} cores, {platform.machine()}"
    if device == "cpu":
        return f"{cores}; {versions}"
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    return f"{done.stdout.splitlines()[0]}; {cores}; {versions}"


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=SIDE, default="cpu")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--width", type=float, nargs="+", default=[1.0, 0.25])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, nargs=2, default=[256, 128])
    parser.add_argument("--reduction", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=("ours", *PEERS))
    parser.add_argument("--accumulate", type=int, default=1, help="batch.accumulate of ours")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="of a repetition; 3, on a GPU 20")
    parser.add_argument("--profile", type=Path, metavar="DIR")
    parser.add_argument("--apart", action="store_true", help="one contestant after the other")
    parser.add_argument("--at-once", action="store_true", help="compile side by side")
    parser.add_argument("--patience", type=float, default=60, help="minutes for all to get ready")
    parser.add_argument("--quick", action="store_true", help="tiny: does it run at all?")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.quick:
        args.width, args.batch, args.size, args.repeats = [0.125], 12, [64, 32], 2
    least = (5 // IMAGES + 2) * IMAGES  # five negatives for each anchor
    if args.batch % IMAGES or args.batch < least:
        parser.error(f"--batch {args.batch}: give a multiple of {IMAGES}, {least} or more")
    args.steps = args.steps or (3 if args.device == "cpu" else 20)
    fit = [name for name in PEERS if args.device == "gpu" or "captured" not in name]
    args.only = args.only or ["ours", *fit]
    return args


def make_tasks(args: argparse.Namespace, dtype: str, width: float, folder: str) -> list[dict]:
    """Return the task of each contestant, as JSON values."""
    net = {"width": width, "reduction": args.reduction, "parts": PARTS}
    net |= {"identities": IDENTITIES, "embedding": EMBEDDING}
    task = {
        **net,
        "device": args.device,
        "dtype": dtype,
        "batch": args.batch,
        "size": args.size,
        "steps": args.steps,
        "accumulate": args.accumulate,
        "side": 256 if args.quick else SIDE[args.device],
        "flops": training_flops(size=tuple(args.size), **net),
        "folder": folder,
        "script": __file__,
        "weights": str(Path(folder) / f"{width:g}.safetensors"),
    }
    return [{**task, "name": name} for name in args.only]


def run(argv: list[str]) -> None:
    """Prints a table for each type and width."""
    args = parse(argv)
    if args.child:
        if args.child["name"] == "weights":
            from jax_step import write_weights

            write_weights(args.child)
        else:
            work(args.child)
        return
    print(f"\n{machine(args.device)}")
    with tempfile.TemporaryDirectory() as folder:
        for width in args.width:
            for dtype in args.dtype:
                tasks = make_tasks(args, dtype, width, folder)
                prepare(tasks[0])
                size = "{} x {}".format(*args.size)
                print(
                    f"\n{dtype}, width {width:g}, {size}, r = {args.reduction}, batch {args.batch}:"
                    f" {tasks[0]['flops'] / 1e9:.1f} GFLOP an image\n"
                )
                groups = [[task] for task in tasks] if args.apart else [tasks]
                results = [
                    result
                    for group in groups
                    for result in race(
                        group, args.repeats, args.profile, args.at_once, 60 * args.patience
                    )
                ]
                print_table(tasks, results)


def prepare(task: dict) -> None:
    """Write the weights that all contestants start from."""
    subprocess.run(
        [sys.executable, __file__, "--child", json.dumps({**task, "name": "weights"})],
        env=os.environ | {"PYTHONPATH": search_path(), "JAX_PLATFORMS": "cpu"},
        check=True,
    )


if __name__ == "__main__":
    run(sys.argv[1:])
