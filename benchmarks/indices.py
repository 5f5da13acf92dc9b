"""What approximate indices cost and find: ours through faiss, usearch, hnswlib and LanceDB.

    pip install -e '.[faiss,lancedb]' usearch hnswlib
    python benchmarks/indices.py [--gallery 1000000] [--only hnsw usearch ...] [--dir DIR]
    python benchmarks/indices.py --table      # the table of docs/scale.md, from the kept results

Features of 512 numbers are drawn once, into a file in --dir: 50,000 people in 64 directions, with
noise within a person and some noise in all 512 directions, of unit length. Queries are drawn in the
same way and are not in the gallery. Each contestant runs in its own process, and its row is written
to docs/results/indices.json when the row is complete; rows that are there already are left out.

* build: seconds on the clock, from the file of features to an index on the disk, and seconds of all
  processors, which other work on the machine changes less.
* peak: of resident memory while it is built. memory: what opening it and searching it adds.
* one: the median milliseconds of a search for one query. many: milliseconds a query of 200 at once.
* recall@10: against exact search. The width of a search is raised until it is 0.95, if it can be.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

DIM, QUERIES, TOP, WANTED = 512, 200, 10, 0.95
NAMES = ("flat", "hnsw", "ivfpq", "usearch", "hnswlib", "lancedb", "lancedb-hnsw")
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "indices.json"
WIDTHS = (32, 64, 128, 256, 512)
NEIGHBOURS, BUILD_WIDTH = 32, 100
Search = Callable[[np.ndarray], np.ndarray]


def draw(number: int, seed: int) -> np.ndarray:
    """Features of people, [number, DIM] of unit length."""
    fixed, own = np.random.default_rng(0), np.random.default_rng(seed)
    directions = fixed.standard_normal((64, DIM), np.float32) / 8
    people = fixed.standard_normal((50_000, 64), np.float32)
    of = own.integers(0, len(people), number)
    features = (people[of] + 0.5 * own.standard_normal((number, 64), np.float32)) @ directions
    features += 0.3 * own.standard_normal((number, DIM), np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def prepare(folder: Path, count: int) -> None:
    """Write the gallery, the queries and their exact lists, if they are missing."""
    from batnet_jax.inference.feature_file import open_features, write_features
    from batnet_jax.retrieval import top_k

    folder.mkdir(parents=True, exist_ok=True)
    gallery, step = folder / "gallery.npz", 50_000
    if not gallery.exists():
        starts = range(0, count, step)
        parts = (draw(min(step, count - s), 100 + s // step) for s in starts)
        paths = [f"camera{i % 8}/{i}.jpg" for i in range(count)]
        write_features(gallery, parts, shape=(count, DIM), paths=paths, fingerprint="0" * 32)
    if not (folder / "exact.npy").exists():
        np.save(folder / "query.npy", draw(QUERIES, 1))
        query = np.load(folder / "query.npy")
        np.save(folder / "exact.npy", top_k(query, open_features(gallery).features, TOP)[0])


def build_ours(kind: str, folder: Path, out: Path) -> None:
    """Write one of our indices for faiss."""
    from batnet_jax.inference.feature_file import open_features
    from batnet_jax.inference.index_file import write_index

    gallery = open_features(folder / "gallery.npz")
    write_index(out, gallery.features, b"", user="faiss", paths=gallery.paths, kind=kind)


def open_ours(out: Path) -> dict[int, Search]:
    """Return the search, by its width: 0 where the index knows its own."""
    from batnet_jax.inference.feature_file import open_features
    from batnet_jax.inference.gallery import top_of_rows

    features = open_features(out).features
    return {0: lambda query: top_of_rows(query, features, TOP, None)[0]}


def build_usearch(folder: Path, out: Path) -> None:
    """Fill usearch's HNSW, whose features have 8 bits as ours have."""
    from usearch.index import Index

    from batnet_jax.inference.feature_file import open_features

    features = open_features(folder / "gallery.npz").features
    index = Index(
        ndim=DIM, metric="cos", dtype="i8", connectivity=NEIGHBOURS, expansion_add=BUILD_WIDTH
    )
    for start in range(0, len(features), 16384):
        rows = features[start : start + 16384]
        index.add(np.arange(start, start + len(rows)), rows)
    index.save(str(out))


def open_usearch(out: Path) -> dict[int, Search]:
    """Return the search, by its width."""
    from usearch.index import Index

    index = Index.restore(str(out))

    def at(width: int) -> Search:
        def search(query: np.ndarray) -> np.ndarray:
            index.expansion_search = width
            return np.asarray(index.search(query, TOP).keys).reshape(len(query), TOP)

        return search

    return {width: at(width) for width in WIDTHS}


def build_hnswlib(folder: Path, out: Path) -> None:
    """Fill hnswlib's HNSW, whose features have 32 bits."""
    import hnswlib

    from batnet_jax.inference.feature_file import open_features

    features = open_features(folder / "gallery.npz").features
    index = hnswlib.Index("ip", DIM)
    index.init_index(len(features), M=NEIGHBOURS, ef_construction=BUILD_WIDTH)
    for start in range(0, len(features), 16384):
        rows = features[start : start + 16384]
        index.add_items(rows, np.arange(start, start + len(rows)))
    index.save_index(str(out))


def open_hnswlib(out: Path) -> dict[int, Search]:
    """Return the search, by its width."""
    import hnswlib

    index = hnswlib.Index("ip", DIM)
    index.load_index(str(out))

    def at(width: int) -> Search:
        def search(query: np.ndarray) -> np.ndarray:
            index.set_ef(width)
            return index.knn_query(query, TOP)[0]

        return search

    return {width: at(width) for width in WIDTHS}


def build_lancedb(kind: str, folder: Path, out: Path) -> None:
    """Load the features into LanceDB, with its own index."""
    from batnet_jax.inference.feature_file import open_features
    from batnet_jax.inference.lance_load import load

    load(open_features(folder / "gallery.npz"), f"lancedb:{out}", kind=kind, user="lancedb")


def open_lancedb(out: Path) -> dict[int, Search]:
    """Return the search of the gallery."""
    from batnet_jax.inference.lance_gallery import open_lance

    gallery = open_lance(f"lancedb:{out}")
    paths = gallery.paths

    def search(query: np.ndarray) -> np.ndarray:
        found = gallery.features.nearest(query, TOP, None)[0]
        names = [[paths[i] for i in row] for row in found.tolist()]
        return np.array([[int(Path(name).stem) for name in row] for row in names])

    return {0: search}


def build(name: str, folder: Path, out: Path) -> None:
    """Build the index of a contestant."""
    if name.startswith("lancedb"):
        build_lancedb(name.partition("-")[2] or "flat", folder, out)
    elif name in ("usearch", "hnswlib"):
        {"usearch": build_usearch, "hnswlib": build_hnswlib}[name](folder, out)
    else:
        build_ours(name, folder, out)


def open_searches(name: str, out: Path) -> dict[int, Search]:
    """Open the index of a contestant."""
    if name.startswith("lancedb"):
        return open_lancedb(out)
    if name in ("usearch", "hnswlib"):
        return {"usearch": open_usearch, "hnswlib": open_hnswlib}[name](out)
    return open_ours(out)


def memory(name: str) -> float:
    """Return a figure of this process's memory in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def size_of(path: Path) -> int:
    """Return the bytes of a file or of a folder."""
    return sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")))


def measure_build(name: str, folder: Path, out: Path) -> dict[str, float]:
    """Build in this process."""
    start, before = time.perf_counter(), time.process_time()
    build(name, folder, out)
    return {
        "build": time.perf_counter() - start,
        "build_cpu": time.process_time() - before,
        "peak": memory("VmHWM"),
        "disk": size_of(out) / 2**20,
    }


def measure_search(name: str, folder: Path, out: Path) -> dict[str, float]:
    """Open and search in this process."""
    import batnet_jax.inference.gallery  # noqa: F401 (before the memory is read)

    query, exact = np.load(folder / "query.npy"), np.load(folder / "exact.npy")
    before, result = memory("VmRSS"), {}
    for width, search in open_searches(name, out).items():
        search(query[:1])
        start = time.perf_counter()
        found = search(query)
        many = time.perf_counter() - start
        one = []
        for i in range(50):
            start = time.perf_counter()
            search(query[i : i + 1])
            one.append(time.perf_counter() - start)
        same = [np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)]
        result = {
            "width": width,
            "recall": float(np.mean(same)),
            "first": float(np.mean(found[:, 0] == exact[:, 0])),
            "one": 1000 * statistics.median(one),
            "many": 1000 * many / len(query),
            "memory": memory("VmRSS") - before,
        }
        if result["recall"] >= WANTED:
            break
    return result


def run_row(name: str, folder: Path, count: int) -> dict[str, float | str]:
    """Build and search in processes of their own."""
    out = folder / f"{name}.index"
    row: dict[str, float | str] = {}
    for step in ("build", "search"):
        command = [sys.executable, __file__, "--child", step, name, str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row |= json.loads(done.stdout.splitlines()[-1])
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    return {"name": name, "gallery": count, "load": os.getloadavg()[0], **row}


def read_results() -> dict:
    """Return the kept rows."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"machine": "", "rows": []}


def keep(row: dict) -> None:
    """Add a row to the results."""
    from batnet_jax.runtime.atomic_write import write_atomically

    kept = read_results()
    kept["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {platform.python_version()}"
    kept["rows"] = [*kept["rows"], row]
    RESULTS.parent.mkdir(exist_ok=True)
    write_atomically(RESULTS, json.dumps(kept, indent=1) + "\n")


def table() -> str:
    """Return the results as a table of Markdown."""
    head = (
        "| gallery | | build, s (processors) | peak, MiB | disk, MiB | memory, MiB | one, ms |"
        " many, ms | recall@10 |"
    )
    lines = [head, "|---:|---|---:|---:|---:|---:|---:|---:|---:|"]
    rows = sorted(read_results()["rows"], key=lambda r: (r["gallery"], NAMES.index(r["name"])))
    for r in rows:
        lines.append(
            f"| {r['gallery']:,} | {r['name']} | {r['build']:,.0f} ({r['build_cpu']:,.0f}) |"
            f" {r['peak']:,.0f} | {r['disk']:,.0f} | {r['memory']:,.0f} | {r['one']:.1f} |"
            f" {r['many']:.2f} | {r['recall']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Draw the features, and run the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gallery", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--dir", type=Path, default=Path("/tmp/batnet_indices"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        print(table())
        return
    if args.child:
        step, name, folder = args.child
        measure = measure_build if step == "build" else measure_search
        print(json.dumps(measure(name, Path(folder), Path(folder, f"{name}.index"))))
        return
    for count in args.gallery:
        folder = args.dir / str(count)
        prepare(folder, count)
        for name in args.only:
            if any((r["name"], r["gallery"]) == (name, count) for r in read_results()["rows"]):
                continue
            out = folder / f"{name}.index"  # what a killed run has left
            shutil.rmtree(out, ignore_errors=True) if out.is_dir() else out.unlink(missing_ok=True)
            try:
                keep(run_row(name, folder, count))
            except subprocess.CalledProcessError as error:
                print(f"{name} with {count:,}: failed with status {error.returncode}")
    print(table())


if __name__ == "__main__":
    main()
