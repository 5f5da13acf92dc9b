"""What searching costs: the best k of a million, by ours and by faiss, beside the bare product.

    pip install -e '.[faiss]'
    python benchmarks/search.py [--gallery 1000000] [--queries 1000 256] [--top 10]
        [--only ours faiss] [--dir DIR]

The features are drawn once, into a file (4.1 GB of disk in --dir for a million). Each contestant
runs in its own process. It prints the seconds of the fastest of --repeat searches (the first one
also compiles), the peak of resident memory, and how many of its lists equal faiss's.

* ours: `retrieval.top_k` on the memory-mapped file. The time includes reading the features,
  checking them and scaling them to unit length.
* faiss: `IndexFlatIP`, exact, with all features in memory. The column "fill" has the time of
  reading the file and filling the index.
* floor: the matrix product alone, in blocks, with all features in memory. It runs in a process
  before each contestant and in one after it, and the faster of the two counts.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

DIMENSIONS = 1024
NAMES = ("ours", "faiss")


def write_features(path: Path, number: int, seed: int) -> None:
    """Points around 50,000 centres, of unit length, in pieces."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((1000, DIMENSIONS), np.float32)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (number, DIMENSIONS))
    for start in range(0, number, 4096):
        count = min(4096, number - start)
        noise = rng.standard_normal((count, DIMENSIONS), np.float32)
        noise += centres[rng.integers(0, len(centres), count)]
        out[start : start + count] = noise / np.linalg.norm(noise, axis=1, keepdims=True)
    out.flush()


def best_of(repeat: int, search) -> dict[str, float]:
    """Seconds of the first and of the fastest call; what the last returned, as `found`."""
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        found = search()
        seconds.append(time.perf_counter() - start)
    return {"first": seconds[0], "best": min(seconds), "found": found}


def floor(query: np.ndarray, gallery: np.ndarray, repeat: int) -> dict[str, float]:
    """Seconds of the bare product of all queries and some of the gallery, scaled to all of it."""
    import jax
    import jax.numpy as jnp

    part = np.array(gallery[: 8 * 8192])
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest")[:8, :8])
    chunks = [jnp.asarray(part[s : s + 8192].T.copy()) for s in range(0, len(part), 8192)]
    blocks = [jnp.asarray(query[s : s + 512]) for s in range(0, len(query), 512)]

    def multiply():
        for chunk in chunks:
            for block in blocks:
                product(block, chunk).block_until_ready()

    multiply()
    seconds = best_of(max(repeat, 3), multiply)["best"]
    return {"floor": seconds * len(gallery) / len(part)}


def contest(name: str, query: np.ndarray, gallery: np.ndarray, k: int, repeat: int) -> dict:
    """What one of the contestants takes and finds."""
    if name == "ours":
        from batnet_jax.retrieval import top_k

        return best_of(repeat, lambda: top_k(query, gallery, k)[0])
    import faiss

    start = time.perf_counter()
    index = faiss.IndexFlatIP(DIMENSIONS)
    for row in range(0, len(gallery), 65536):
        index.add(np.array(gallery[row : row + 65536]))
    filled = time.perf_counter() - start
    return {"fill": filled, **best_of(repeat, lambda: index.search(query, k)[1])}


def child(name: str, folder: Path, args: argparse.Namespace) -> None:
    """In the process of a contestant, or of the floor."""
    query = np.load(folder / "query.npy")[: args.queries[0]]
    gallery = np.load(folder / "gallery.npy", mmap_mode="r")
    if name == "floor":
        print(json.dumps(floor(query, gallery, args.repeat)))
        return
    result = contest(name, query, gallery, args.top, args.repeat)
    np.save(folder / f"{name}.npy", result.pop("found"))
    status = Path("/proc/self/status").read_text()
    result["peak"] = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
    print(json.dumps(result))


def say(name: str, folder: Path, queries: int, args: argparse.Namespace) -> dict[str, float]:
    """What a child says."""
    command = [sys.executable, __file__, "--child", name, str(folder), "--queries", str(queries)]
    command += ["--top", str(args.top), "--repeat", str(args.repeat)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Draw the features, run the contestants one after the other, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gallery", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, nargs="+", default=[1000, 256])
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child[0], Path(args.child[1]), args)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(
        "| queries x gallery | | seconds (first) | fill | x product | peak MiB | lists as faiss's |"
    )
    print("|---|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        folder = Path(name)
        write_features(folder / "query.npy", max(args.queries), 2)
        write_features(folder / "gallery.npy", args.gallery, 3)
        for queries in args.queries:
            for contestant in reversed(args.only):
                before, result, after = (
                    say(which, folder, queries, args) for which in ("floor", contestant, "floor")
                )
                bare = min(before["floor"], after["floor"])
                same = ""
                if (folder / "faiss.npy").exists():
                    found, theirs = (np.load(folder / f"{n}.npy") for n in (contestant, "faiss"))
                    same = f"{(found == theirs).all(1).mean():.1%}"
                print(
                    f"| {queries:,} x {args.gallery:,} | {contestant} | {result['best']:.1f} "
                    f"({result['first']:.1f}) | {result.get('fill', 0):.1f} | "
                    f"{result['best'] / bare:.2f} | {result['peak']:,.0f} | {same} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
