"""What evaluating costs, from features to metrics: time and memory at MSMT17's size and below.

    pip install -e '.[benchmark]'
    pip install --no-deps --target DIR fastreid==1.4.0 torchreid==0.2.5
    python benchmarks/evaluator.py --peers DIR [--lists DIR] [--sizes 8 4 2 1] [--only ours numpy]
        [--million] [--plot FILE.png] [--dir DIR]

The identities and cameras are MSMT17's, 11,659 queries and 82,161 gallery images. --lists names the
folder with list_query.txt and list_gallery.txt. Without --lists, labels are drawn with the same
distribution. Size n takes every n-th query and gallery image. Features are drawn at random.

Each contestant runs in its own process, and prints its time, the peak of its resident memory and
mAP. Our time is the time of a second call; the first call compiles, and its time stands beside it.
The floor is the blocked matrix product of the same features, and nothing else. It runs in a process
before each contestant and in one after it, and the mean of the two counts, because the speed of a
virtual machine changes from minute to minute.

* fastreid: the product of normalised features with PyTorch, as in FastReID's evaluator, then
  `rank_cy.pyx` of FastReID's package, compiled here. `rank_cy.pyx` was made from Torchreid's Cython
  evaluator, which Torchreid's package lacks.
* torchreid: `distance.py` and `rank.py` of Torchreid's package, in Python.
* jnp.sort, numpy: plain evaluators that sort the gallery for every query, block by block.

Imports and the compilation of `rank_cy.pyx` are not timed. Before each size, a contestant's memory
and time are predicted from its last size and the number of pairs. The contestant is left out if the
prediction exceeds --limit-gib or --limit-minutes. --million adds 1,000,000 distractors, in a
memory-mapped file (4.4 GB of disk in --dir).
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

DIMENSIONS = 1024
IMPORTS = {
    "ours": ["batnet_jax.retrieval"],
    "fastreid": ["torch"],
    "torchreid": ["torch"],
    "jnp.sort": ["jax.numpy"],
    "numpy": [],
}
"""The contestants, and what each imports before the clock starts."""
DISTRACTORS = 10_000
"""From here on, identities that no query asks for."""


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
    """Each identity's centre and noise, in pieces; distractors are noise alone."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((DISTRACTORS, DIMENSIONS), np.float32)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (len(pids), DIMENSIONS))
    for start in range(0, len(pids), 4096):
        part = pids[start : start + 4096]
        noise = 3 * rng.standard_normal((len(part), DIMENSIONS), np.float32)
        noise[part < DISTRACTORS] += centres[part[part < DISTRACTORS]]
        out[start : start + 4096] = noise
    out.flush()


def floor(query: np.ndarray, gallery: np.ndarray) -> float:
    """Seconds that the bare product of all pairs takes, in blocks; laying them out is not timed."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest")[:8, :8])
    blocks = [jnp.asarray(query[s : s + 512]) for s in range(0, len(query), 512)]
    compiled, seconds = set(), 0.0
    for start in range(0, len(gallery), 8192):
        chunk = jnp.asarray(gallery[start : start + 8192].T.copy())
        if chunk.shape not in compiled:
            compiled.add(chunk.shape)
            for block in {block.shape: block for block in blocks}.values():
                product(block, chunk).block_until_ready()
        before = time.perf_counter()
        for block in blocks:
            product(block, chunk).block_until_ready()
        seconds += time.perf_counter() - before
    return seconds


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


def load_file(path: Path):
    """A module of a peer's package, without the package around it."""
    spec = importlib.util.spec_from_file_location(path.name.split(".")[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_cython(peers: Path, folder: Path) -> None:
    """FastReID's `rank_cy.pyx`, compiled into the folder."""
    (source,) = peers.glob("fastreid/**/rank_cy.pyx")
    shutil.copy(source, folder)
    command = [sys.executable, "-m", "Cython.Build.Cythonize", "-i", "rank_cy.pyx"]
    flags = {"CFLAGS": f"-I{np.get_include()} -O3 -w"}
    done = subprocess.run(command, cwd=folder, env=os.environ | flags, capture_output=True)
    if done.returncode:
        sys.exit(f"rank_cy.pyx does not compile: {done.stderr.decode()[-500:]}")


def peer(name: str, peers: Path, folder: Path, case: list[np.ndarray]) -> dict[str, float]:
    """Find mAP as FastReID or Torchreid does."""
    import torch
    from torch.nn.functional import normalize

    query, q_pids, q_cameras, gallery, pids, cameras = case
    query, gallery = torch.from_numpy(query), torch.from_numpy(np.asarray(gallery))
    if name == "fastreid":
        distances = 1 - torch.mm(normalize(query, dim=1), normalize(gallery, dim=1).t())
        (built,) = folder.glob("rank_cy.*.so")
        found = load_file(built).evaluate_cy(
            distances.numpy(), q_pids, pids, q_cameras, cameras, 50, False
        )
        return {"mAP": float(np.mean(found[1]))}
    metrics = next(peers.glob("torchreid/**/metrics/rank.py")).parent
    distances = load_file(metrics / "distance.py").compute_distance_matrix(query, gallery, "cosine")
    rank = load_file(metrics / "rank.py").evaluate_rank
    found = rank(distances.numpy(), q_pids, pids, q_cameras, cameras, use_cython=False)
    return {"mAP": float(found[1])}


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


def child(name: str, folder: Path, mapped: bool, peers: Path | None) -> None:
    """Run one contestant, or the floor, in this process, and print its figures as JSON."""
    labels = np.load(folder / "labels.npz")
    query = np.load(folder / "query.npy")
    gallery = np.load(folder / "gallery.npy", mmap_mode="r" if mapped or name == "floor" else None)
    if name == "floor":
        print(json.dumps({"floor": floor(query, gallery)}))
        return
    case = [query, labels["q_pids"], labels["q_cameras"], gallery]
    case += [labels["pids"], labels["cameras"]]
    seconds = []
    for module in IMPORTS[name]:
        importlib.import_module(module)
    for _ in range(2 if name == "ours" and not mapped else 1):
        start = time.perf_counter()
        if name in ("fastreid", "torchreid"):
            got = peer(name, peers, folder, case)
        else:
            got = contest(name, case)
        seconds.append(time.perf_counter() - start)
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
    result = {"first": seconds[0], "time": seconds[-1], "peak": peak, "mAP": got["mAP"]}
    print(json.dumps(result))


def run(name: str, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Return the figures of a contestant's process, and the floor."""

    def say(which: str) -> dict[str, float]:
        command = [sys.executable, __file__, "--child", which, str(folder)]
        command += ["--million"] * args.million
        command += ["--peers", str(args.peers)] if args.peers else []
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    before, result, after = (say(which) for which in ("floor", name, "floor"))
    return result | {"floor": (before["floor"] + after["floor"]) / 2}


def write_case(folder: Path, query: tuple, gallery: tuple, million: bool) -> int:
    """Labels and features; returns the number of pairs."""
    (q_pids, q_cameras), (pids, cameras) = query, gallery
    if million:
        others = np.arange(1_000_000)
        pids = np.concatenate([pids, DISTRACTORS + others % 50_000])
        cameras = np.concatenate([cameras, others % 15])
    labels = {"q_pids": q_pids, "q_cameras": q_cameras, "pids": pids, "cameras": cameras}
    np.savez(folder / "labels.npz", **labels)
    write_features(folder / "query.npy", q_pids, 2)
    write_features(folder / "gallery.npy", pids, 3)
    print(f"\n{len(q_pids):,} x {len(pids):,}\n", file=sys.stderr)
    return len(q_pids) * len(pids)


def draw_plot(path: Path, rows: dict[str, list[dict[str, float]]]) -> None:
    """Time and memory over the pairs of query and gallery item, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for name, results in rows.items():
        pairs = [r["pairs"] for r in results]
        axes[0].loglog(pairs, [r["time"] for r in results], "o-", label=name)
        axes[1].loglog(pairs, [r["peak"] for r in results], "o-", label=name)
    ours = rows.get("ours") or next(iter(rows.values()))
    pairs = [r["pairs"] for r in ours]
    bare = [r["floor"] for r in ours]
    axes[0].loglog(pairs, bare, "k:", label="bare product")
    for axis, title in zip(axes, ("seconds", "peak memory, MiB"), strict=True):
        axis.set(xlabel="queries x gallery", title=title)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Draw the features, run the contestants one after the other, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--lists", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 4, 2, 1])
    parser.add_argument("--only", nargs="+", choices=IMPORTS, default=list(IMPORTS))
    parser.add_argument("--limit-gib", type=float, default=20)
    parser.add_argument("--limit-minutes", type=float, default=8)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child[0], Path(args.child[1]), args.million, args.peers)
    names = ["ours"] if args.million else list(args.only)
    if not args.peers:
        names = [name for name in names if name not in ("fastreid", "torchreid")]
    if args.lists:
        query, gallery = (read_list(args.lists / f"list_{n}.txt") for n in ("query", "gallery"))
    else:
        query, gallery = draw_labels(11_659, 0), draw_labels(82_161, 1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| queries x gallery | | seconds (first call) | x ours | x floor | peak MiB | mAP |")
    print("|---|---|---:|---:|---:|---:|---:|")
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for size in args.sizes:
        with tempfile.TemporaryDirectory(dir=args.dir) as name:
            folder = Path(name)
            sides = [tuple(labels[::size] for labels in side) for side in (query, gallery)]
            pairs = write_case(folder, *sides, args.million)
            if "fastreid" in names:
                build_cython(args.peers, folder)
            for contestant in names:
                last = rows[contestant][-1] if rows[contestant] else None
                growth = pairs / last["pairs"] if last else 1
                if last and (
                    last["peak"] * growth > args.limit_gib * 1024
                    or last["time"] * growth > args.limit_minutes * 60
                ):
                    continue
                r = run(contestant, folder, args) | {"pairs": pairs}
                rows[contestant].append(r)
                ours = next((o for o in rows.get("ours", []) if o["pairs"] == pairs), r)
                print(
                    f"| {len(sides[0][0]):,} x {pairs // len(sides[0][0]):,} | {contestant} |"
                    f" {r['time']:.1f} ({r['first']:.1f}) | {r['time'] / ours['time']:.1f}x |"
                    f" {r['time'] / r['floor']:.2f}x | {r['peak']:,.0f} |"
                    f" {r['mAP']:.6f} |",
                    flush=True,
                )
    for contestant, results in rows.items():
        if len(results) > 1:
            at = np.log([r["pairs"] for r in results])
            laws = [
                np.polyfit(at, np.log([r[key] for r in results]), 1)[0] for key in ("time", "peak")
            ]
            print(
                f"\n{contestant}: time grows as pairs^{laws[0]:.2f}, memory as pairs^{laws[1]:.2f}"
            )
    if args.plot:
        draw_plot(args.plot, {name: results for name, results in rows.items() if results})


if __name__ == "__main__":
    main()
