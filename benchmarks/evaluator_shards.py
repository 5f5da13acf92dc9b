"""What evaluating a gallery that is larger than memory costs: time beside the bare product, memory.

    python benchmarks/evaluator_shards.py [--gallery 10000000] [--dim 512] [--queries 1000]
        [--shards 10] [--dir runs/shards] [--json docs/results/evaluator_shards.json]

Features are drawn at random, in float16, and written to .npz files: 10 GB for the default. The
drawing is done once and kept in --dir. An identity has four queries and ten images in the gallery,
whose features are near one of the queries; everything else is a distractor.

`batnet metrics` runs in its own process, from its start to its figures. The product is that of the
same sizes in float32 from features in memory, block by block as the evaluator takes them, with
nothing read or counted; it runs before and after, and the mean of the two counts. A third run is
ended by SIGKILL in its middle and goes on with --resume; its figures must be the same.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from batnet_jax.runtime.xla_flags import choose_cpu_libraries

BLOCK, CHUNK = 512, 8192  # the evaluator's on a CPU


def draw(folder: Path, args: argparse.Namespace) -> None:
    """Write the queries and the shards, unless they are there."""
    marker = folder / "drawn.json"
    wanted = {"gallery": args.gallery, "dim": args.dim, "queries": args.queries}
    wanted["shards"] = args.shards
    if marker.exists() and json.loads(marker.read_text()) == wanted:
        return
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    pids = np.arange(args.queries) // 4
    query = rng.standard_normal((args.queries, args.dim), np.float32)
    np.savez(folder / "query.npz", features=query, pids=pids, cameras=np.zeros(len(pids), int))
    whole = np.arange(args.gallery) + args.queries
    places = rng.permutation(args.gallery)[: 10 * (args.queries // 4)]
    whole[places] = np.arange(len(places)) // 10
    for number, rows in enumerate(np.array_split(np.arange(args.gallery), args.shards)):
        features = np.empty((len(rows), args.dim), np.float16)
        for start in range(0, len(rows), CHUNK):
            part = features[start : start + CHUNK]
            part[:] = rng.standard_normal(part.shape, np.float32)
        near = np.flatnonzero(whole[rows] < args.queries // 4)
        features[near] = query[4 * whole[rows][near]] + features[near]
        path = folder / "shards" / f"{number:04}.npz"
        np.savez(path, features=features, pids=whole[rows], cameras=np.ones(len(rows), int))
    marker.write_text(json.dumps(wanted))


def time_product(args: argparse.Namespace) -> float:
    """Return the seconds of the bare products, in this process."""
    import jax

    rng = np.random.default_rng(0)
    query = rng.standard_normal((args.queries, args.dim), np.float32)
    blocks = [jax.device_put(part) for part in np.array_split(query, -(-args.queries // BLOCK))]
    columns = jax.device_put(rng.standard_normal((args.dim, CHUNK), np.float32))
    product = jax.jit(lambda a, b: jax.numpy.matmul(a, b, precision="highest"))
    for block in blocks:
        product(block, columns).block_until_ready()
    start = time.perf_counter()
    for _ in range(-(-args.gallery // CHUNK)):
        for block in blocks:
            product(block, columns).block_until_ready()
    return time.perf_counter() - start


def measure(folder: Path, *words: str, end_after: float = 0) -> dict | None:
    """Run `batnet metrics`; return its seconds, peak memory in MB and figures.

    Args:
      folder: of the drawn files.
      words: further arguments.
      end_after: seconds after which the process is killed; 0 = never. Then nothing is returned.
    """
    output = folder / "found.json"
    command = [sys.executable, "-m", "batnet_jax.main", "metrics"]
    command += [str(folder / "query.npz"), str(folder / "shards"), f"--output={output}", *words]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    if end_after:
        time.sleep(end_after)
        process.send_signal(signal.SIGKILL)
        process.wait()
        return None
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    assert status == 0
    figures = json.loads(output.read_text())
    return {"seconds": seconds, "peak_mb": usage.ru_maxrss / 1024, "figures": figures}


def machine() -> str:
    """Return the name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.processor()


def main() -> None:
    """Draw, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("gallery", 10**7), ("dim", 512), ("queries", 1000), ("shards", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dir", type=Path, default=Path("runs/shards"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    choose_cpu_libraries()
    draw(args.dir, args)
    products = [time_product(args)]
    whole = measure(args.dir)
    products.append(time_product(args))
    assert whole is not None
    resume = f"--resume={args.dir / 'counts.npz'}"
    measure(args.dir, resume, end_after=0.6 * whole["seconds"])
    rest = measure(args.dir, resume)
    assert rest is not None
    assert rest["figures"] == whole["figures"]
    product = sum(products) / 2
    result = {
        "gallery": args.gallery, "dim": args.dim, "queries": args.queries, "shards": args.shards,
        "product_seconds": [round(seconds, 1) for seconds in products],
        "seconds": round(whole["seconds"], 1), "ratio": round(whole["seconds"] / product, 2),
        "peak_mb": round(whole["peak_mb"]), "mAP": round(whole["figures"]["mAP"], 4),
        "resumed_seconds": round(rest["seconds"], 1), "machine": machine(),
        "cores": os.cpu_count(),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
