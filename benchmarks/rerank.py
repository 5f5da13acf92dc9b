"""k-reciprocal re-ranking, ours against Torchreid's, in one run: time and memory.

    pip install --no-deps --target DIR torchreid==0.2.5
    python benchmarks/rerank.py --torchreid DIR [--sizes 1500 3000 6000 12000 24000]
        [--limit-gib 8] [--full]

Only the file `utils/rerank.py` of Torchreid is used, which needs nothing but NumPy. DIR is where
Torchreid is installed, or its unpacked source package. Torchreid receives the matrices of Euclidean
distances; neither the time nor the memory of making them is counted. Ours starts from the features
and computes the distances itself. Features have 1,024 dimensions; an eighth of the images are
queries.

Each measurement runs in its own process. Memory is the growth of the process's resident memory,
from the start of the measurement to its peak. --limit-gib limits Torchreid's memory (RLIMIT_AS).
Torchreid is left out at sizes for which its memory, growing with the square of the images, would
exceed the limit.

The first "x" is Torchreid's time divided by ours, the second Torchreid's memory divided by ours.
"difference" is the largest difference between final distances. It may be large if two distances are
equal except for rounding, because the neighbours may then differ. --full runs ours at MSMT17's
size: 11,659 queries and 82,161 gallery images.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

DIMENSIONS = 1024
PER_PERSON = 23
"""Images, as in MSMT17's test set: 93,820 of 3,060 people, rounded down."""
FULL = 11_659, 82_161
FILE = "utils/rerank.py"
GIB = 2**30


def make_features(images: int) -> np.ndarray:
    """[images, 1024] float32 of length 1: each person a cloud, each cloud near some others."""
    rng = np.random.default_rng(0)
    people = max(2, images // PER_PERSON)
    groups = rng.standard_normal((max(1, people // 10), DIMENSIONS), np.float32)
    centres = groups[rng.integers(0, len(groups), people)]
    centres += rng.standard_normal((people, DIMENSIONS), np.float32)
    pids = rng.integers(0, people, images)
    features = np.empty((images, DIMENSIONS), np.float32)
    for start in range(0, images, 4096):
        part = features[start : start + 4096]
        part[:] = rng.standard_normal(part.shape, np.float32)
        part += centres[pids[start : start + 4096]]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return features


def memory(which: str) -> int:
    """Return bytes of memory: "VmRSS" = resident now, "VmHWM" = its peak, or "VmSize"."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(which + r":\s+(\d+) kB", status)[1])


def load_torchreid(folder: str):
    """The function `re_ranking` of the one file, without importing the package around it."""
    paths = sorted(Path(folder).rglob(FILE))
    if not paths:
        sys.exit(f"no {FILE} under {folder}: see the head of {__file__}")
    spec = importlib.util.spec_from_file_location("torchreid_rerank", paths[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.re_ranking


def torchreid_distances(
    query: np.ndarray, gallery: np.ndarray, folder: str, limit: float
) -> tuple | None:
    """Final distances of Torchreid's, and seconds and bytes; None beyond `limit` GiB."""
    re_ranking = load_torchreid(folder)

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = a @ b.T
        squared *= -2
        squared += 2
        return np.sqrt(np.maximum(squared, 0, out=squared), out=squared)

    given = distances(query, gallery), distances(query, query), distances(gallery, gallery)
    for own in given[1:]:
        np.fill_diagonal(own, 0)
    most = memory("VmSize") + int(limit * GIB)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        return measure(lambda: re_ranking(*given))
    except MemoryError:
        return None


def our_distances(query: np.ndarray, gallery: np.ndarray) -> tuple:
    """Final distances of ours, and seconds and bytes."""
    from batnet_jax.retrieval.reranking.k_reciprocal import KReciprocal, reranked_rows

    list(reranked_rows(query[:8], gallery[:64], KReciprocal()))  # JAX starts
    final = np.empty((len(query), len(gallery)), np.float32)

    def run() -> np.ndarray:
        for which, rows in reranked_rows(query, gallery, KReciprocal()):
            final[which] = rows
        return final

    return measure(run)


def our_blocks(query: np.ndarray, gallery: np.ndarray) -> tuple:
    """Re-rank as `our_distances` does, but drop each block, as if only ranks were wanted."""
    from batnet_jax.retrieval.reranking.k_reciprocal import KReciprocal, reranked_rows

    def say(done: int, steps: int) -> None:
        if done % 20 == 0 or done == steps:
            print(f"step {done} of {steps}", file=sys.stderr, flush=True)

    def run() -> np.ndarray:
        for _, rows in reranked_rows(query, gallery, KReciprocal(), progress=say):
            last = rows
        return last

    return measure(run)


def measure(function) -> tuple:
    """Return a function's result, its seconds, and the bytes by which memory grew at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = memory("VmRSS"), time.perf_counter()
    result = function()
    return result, time.perf_counter() - start, memory("VmHWM") - before


def child(way: str, queries: int, images: int, result: str, folder: str, limit: float) -> None:
    """One measurement, printed as JSON; the distances are written to the file `result`."""
    features = make_features(images)
    query, gallery = features[:queries], features[queries:]
    if way == "torchreid":
        measured = torchreid_distances(query, gallery, folder, limit)
    else:
        measured = (our_blocks if way == "blocks" else our_distances)(query, gallery)
    if measured is None:
        print(json.dumps(None))
        return
    final, seconds, grown = measured
    if result:
        np.save(result, final)
    print(json.dumps({"seconds": seconds, "bytes": grown}))


def measure_apart(way: str, queries: int, images: int, result="", folder="", limit=0.0):
    """Measure in a process of its own; return None if the memory did not suffice."""
    given = [way, str(queries), str(images), str(result), folder, str(limit)]
    home = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, __file__, "--child", *given],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": home},
    )
    return json.loads(done.stdout)


def compare(sizes: list[int], folder: str, limit: float) -> None:
    """Prints a row a size."""
    print("| images | ours, s | Torchreid, s | x | ours, MiB | Torchreid, MiB | x | difference |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    worst = 0.0  # of Torchreid's bytes, over images squared
    for images in sizes:
        with tempfile.TemporaryDirectory() as place:
            files = Path(place) / "ours.npy", Path(place) / "torchreid.npy"
            ours = measure_apart("ours", images // 8, images, files[0])
            peer = None
            if worst * images**2 < limit * GIB:
                peer = measure_apart("torchreid", images // 8, images, files[1], folder, limit)
            differ = (
                "" if peer is None else f"{np.abs(np.load(files[0]) - np.load(files[1])).max():.1e}"
            )
        cells = [f"{images:,}"]
        for unit, scale, digits in (("seconds", 1, 1), ("bytes", 2**20, 0)):
            own = ours[unit] / scale
            cells.append(f"{own:,.{digits}f}")
            if peer is None:
                predicted = f"over {limit:g} GiB"
                cells += [predicted if unit == "bytes" else "", ""]
            else:
                cells += [f"{peer[unit] / scale:,.{digits}f}", f"{peer[unit] / scale / own:.1f}"]
        print(f"| {' | '.join([*cells, differ])} |", flush=True)
        if peer is not None:
            worst = max(worst, peer["bytes"] / images**2)
    images = sum(FULL)
    print(f"\nAt the size of MSMT17 Torchreid's would need {worst * images**2 / GIB:,.0f} GiB.")


def machine() -> str:
    """What ran, in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "jax"))
    return f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}; {versions}"


def run(argv: list[str]) -> None:
    """Prints the table, or the line of `--full`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torchreid", metavar="DIR", help="where it is installed or unpacked")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1500, 3000, 6000, 12_000, 24_000])
    parser.add_argument("--limit-gib", type=float, default=8, help="of memory for Torchreid's")
    parser.add_argument("--full", action="store_true", help="ours at the size of MSMT17")
    parser.add_argument("--child", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        way, queries, images, result, folder, limit = options.child
        child(way, int(queries), int(images), result, folder, float(limit))
        return
    if not options.full and not options.torchreid:
        sys.exit(f"give --torchreid DIR or --full: see the head of {__file__}")
    print(f"\n{machine()}\n")
    if options.torchreid:
        load_torchreid(options.torchreid)
        compare(options.sizes, options.torchreid, options.limit_gib)
    if options.full:
        cost = measure_apart("blocks", FULL[0], sum(FULL))
        print(
            f"\nOurs, {FULL[0]:,} queries and {FULL[1]:,} gallery images: {cost['seconds']:.0f} s,"
            f" {cost['bytes'] / 2**20:,.0f} MiB over the features'"
            f" {4 * DIMENSIONS * sum(FULL) / 2**20:,.0f} MiB"
        )


if __name__ == "__main__":
    run(sys.argv[1:])
