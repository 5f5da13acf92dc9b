"""What evaluating costs, from features to metrics: time and memory at MSMT17's size and below.

    python benchmarks/evaluator.py [--lists DIR] [--sizes 8 4 2 1] [--million] [--only ours numpy]

Queries and gallery are MSMT17's (11,659 and 82,161 images) by its list_query.txt and
list_gallery.txt in --lists, else drawn by the same law; size n takes every n-th of both. Features
are drawn. Each contestant runs in a process of its own, and prints its time (the better of two
calls in that process, the first is shown too), the peak of resident memory and mAP. The floor is
the bare blocked matrix product of the same features, measured in the same process before and
after. `jnp.sort` and `numpy` are plain blockwise evaluators that sort the gallery for every query.
--million adds 1,000,000 distractors in a file that is mapped (4.4 GB of disk in --dir).
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
CONTESTANTS = ("ours", "jnp.sort", "numpy")


def read_list(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Identities and cameras of one of MSMT17's lists."""
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    cameras = [int(name.rsplit("/", 1)[-1].split("_")[2]) for name, _ in lines]
    return np.array([int(pid) for _, pid in lines]), np.array(cameras)


def draw_labels(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted by identity, as the lists are."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.integers(0, 3060, number)), rng.integers(0, 15, number)


def write_features(path: Path, pids: np.ndarray, seed: int) -> None:
    """Each identity's centre and noise, in pieces."""
    rng = np.random.default_rng(seed)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (len(pids), DIMENSIONS))
    for start in range(0, len(pids), 4096):
        part = pids[start : start + 4096]
        seeds, places = np.unique(part, return_inverse=True)
        centres = [np.random.default_rng(s).standard_normal(DIMENSIONS, np.float32) for s in seeds]
        noise = rng.standard_normal((len(part), DIMENSIONS), np.float32)
        out[start : start + 4096] = np.stack(centres)[places] + 3 * noise
    out.flush()


def floor(query: np.ndarray, gallery: np.ndarray) -> float:
    """Seconds of the bare matrix product, in blocks, of what is in memory."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest")[:8, :8])
    query = query[: len(query) // 512 * 512 or None]
    gallery = gallery[: min(len(gallery), 8 * 8192)]
    chunks = [jnp.asarray(gallery[s : s + 8192].T.copy()) for s in range(0, len(gallery), 8192)]
    blocks = [jnp.asarray(query[s : s + 512]) for s in range(0, len(query), 512)]
    for chunk in {c.shape: c for c in chunks}.values():
        product(blocks[0], chunk).block_until_ready()
    start = time.perf_counter()
    for chunk in chunks:
        for block in blocks:
            product(block, chunk).block_until_ready()
    return (time.perf_counter() - start) / (len(query) * len(gallery))


def sorting(sort, normal, query, q_pids, q_cameras, gallery, pids, cameras) -> dict[str, float]:
    """Find mAP by sorting the gallery for every query; `sort` takes a block of scores."""
    gallery = normal(gallery)
    total = []
    for start in range(0, len(query), 256):
        rows = slice(start, start + 256)
        for q, order in zip(range(start, start + 256), sort(normal(query[rows]), gallery)):  # noqa: B905
            order = order[(pids[order] != q_pids[q]) | (cameras[order] != q_cameras[q])]
            ranks = np.flatnonzero(pids[order] == q_pids[q]) + 1
            if len(ranks):
                total.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return {"mAP": float(np.mean(total))}


def contest(name: str, case: list[np.ndarray]) -> dict[str, float]:
    """Find mAP by one of the contestants."""
    if name == "ours":
        from batnet_jax.retrieval import evaluate

        return evaluate(*case)
    normal = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    if name == "numpy":
        return sorting(lambda a, b: np.argsort(-(a @ b.T), axis=1, kind="stable"), normal, *case)
    import jax
    import jax.numpy as jnp

    order = jax.jit(lambda a, b: jnp.argsort(-jnp.matmul(a, b.T, precision="highest"), axis=1))
    on_device = jax.device_put
    return sorting(lambda a, b: np.asarray(order(a, on_device(b))), normal, *case)


def child(name: str, folder: Path, mapped: bool) -> None:
    """In the process of a contestant."""
    labels = np.load(folder / "labels.npz")
    query = np.load(folder / "query.npy")
    gallery = np.load(folder / "gallery.npy", mmap_mode="r" if mapped else None)
    case = [query, labels["q_pids"], labels["q_cameras"], gallery]
    case += [labels["pids"], labels["cameras"]]
    sample = np.array(gallery[: 4 * 8192])
    floors, seconds = [floor(query[:4096], sample)], []
    for _ in range(1 if name != "ours" else 2):
        start = time.perf_counter()
        got = contest(name, case)
        seconds.append(time.perf_counter() - start)
        floors.append(floor(query[:4096], sample))
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
    result = {"first": seconds[0], "best": min(seconds), "peak": peak, "mAP": got["mAP"]}
    print(json.dumps(result | {"floor": min(floors) * len(query) * len(gallery)}))


def main() -> None:
    """Draw the features, run the contestants one after the other, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lists", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 4, 2, 1])
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child[0], Path(args.child[1]), args.million)
    if args.lists:
        query, gallery = (read_list(args.lists / f"list_{n}.txt") for n in ("query", "gallery"))
    else:
        query, gallery = draw_labels(11_659, 0), draw_labels(82_161, 1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| queries x gallery | | seconds (first call) | to the floor | peak MiB | mAP |")
    print("|---|---|---:|---:|---:|---:|")
    for size in args.sizes:
        with tempfile.TemporaryDirectory(dir=args.dir) as name:
            folder = Path(name)
            (q_pids, q_cameras), (pids, cameras) = (
                [labels[::size] for labels in side] for side in (query, gallery)
            )
            if args.million:
                pids = np.concatenate([pids, 10_000 + np.arange(1_000_000) % 50_000])
                cameras = np.concatenate([cameras, np.arange(1_000_000) % 15])
            labels = {"q_pids": q_pids, "q_cameras": q_cameras, "pids": pids, "cameras": cameras}
            np.savez(folder / "labels.npz", **labels)
            write_features(folder / "query.npy", q_pids, 2)
            write_features(folder / "gallery.npy", pids, 3)
            for contestant in ("ours",) if args.million else args.only:
                command = [sys.executable, __file__, "--child", contestant, name]
                command += ["--million"] * args.million
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                r = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"| {len(q_pids):,} x {len(pids):,} | {contestant} | {r['best']:.1f}"
                    f" ({r['first']:.1f}) | {r['best'] / r['floor']:.2f}x | {r['peak']:,.0f} |"
                    f" {r['mAP']:.6f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
