"""What evaluating costs on an accelerator, against the bare product of the same features.

    python benchmarks/evaluator_gpu.py [--lists DIR] [--size 1] [--repeats 5] [--profile DIR]

--lists and --size choose the labels as in `evaluator.py`. All measurements take turns in one
process, and the best of the repeats counts:

* product: multiply all queries by all gallery items, in the evaluator's tiles, in float32 at full
  precision. All features are on the device before the clock starts.
* product with upload: the same, with the features in NumPy arrays, uploaded chunk by chunk.
* features to metrics: the whole call, from NumPy arrays to a dictionary: checks, unit length, plan,
  upload, ranks, metrics. It is also timed with features rounded to bfloat16, and with XLA's sums in
  place of the counting kernel.
* upload: copy the gallery to the device, as one array, and in pieces as the evaluator does it.
* device work: the time that the device works in one whole call, by a trace: product and counting.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from evaluator import DIMENSIONS, draw_labels, read_list
from kernels import device_events, read_events, summarise

from batnet_jax.retrieval import evaluate
from batnet_jax.retrieval.streaming import count_methods
from batnet_jax.retrieval.streaming.prepare_features import upload

BLOCK, CHUNK = 1024, 32768


def draw_features(pids: np.ndarray, seed: int) -> np.ndarray:
    """Each identity's centre and noise."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((pids.max() + 1, DIMENSIONS), np.float32)
    return centres[pids] + 3 * rng.standard_normal((len(pids), DIMENSIONS), np.float32)


@jax.jit
def product(block: jax.Array, chunk: jax.Array) -> jax.Array:
    """A tile."""
    return jnp.matmul(block, chunk.T, precision="highest")


def pieces(features, size: int) -> list:
    """Cut an array into equal parts, as a plan does; zeros fill up the last part."""
    count = -(-len(features) // size)
    size = -(-len(features) // count)
    features = np.pad(features, ((0, count * size - len(features)), (0, 0)))
    return [features[start : start + size] for start in range(0, len(features), size)]


def multiply(blocks: list, chunks: list) -> float:
    """Seconds for all tiles."""
    start = time.perf_counter()
    for chunk in chunks:
        chunk = jnp.asarray(chunk)
        for block in blocks:
            tile = product(block, chunk)
    tile.block_until_ready()
    return time.perf_counter() - start


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lists", type=Path)
    parser.add_argument("--size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", type=Path)
    args = parser.parse_args()
    if args.lists:
        sides = [read_list(args.lists / f"list_{name}.txt") for name in ("query", "gallery")]
    else:
        sides = draw_labels(11_659, 0), draw_labels(82_161, 1)
    (q_pids, q_cameras), (pids, cameras) = (
        tuple(labels[:: args.size] for labels in side) for side in sides
    )
    query, gallery = draw_features(q_pids, 2), draw_features(pids, 3)
    blocks, chunks = pieces(query, BLOCK), pieces(gallery, CHUNK)
    here = [jax.device_put(block) for block in blocks], [jax.device_put(c) for c in chunks]

    def whole(method: str = "", **options) -> float:
        usual = count_methods.counting_method
        with patch.object(count_methods, "counting_method", (lambda: method) if method else usual):
            start = time.perf_counter()
            evaluate(query, q_pids, q_cameras, gallery, pids, cameras, **options)
            return time.perf_counter() - start

    def put(how: Callable) -> float:
        start = time.perf_counter()
        how(gallery).block_until_ready()
        return time.perf_counter() - start

    ways = {
        "product": lambda: multiply(*here),
        "product with upload": lambda: multiply([jnp.asarray(b) for b in blocks], chunks),
        "features to metrics": whole,
        "features to metrics, bfloat16": lambda: whole(dtype="bfloat16"),
        "features to metrics, by XLA's sums": lambda: whole("sums"),
        "upload at once": lambda: put(jax.device_put),
        "upload in pieces": lambda: put(upload),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats + 1):
        for name, way in ways.items():
            times[name].append(way())
    best = {name: min(values[1:]) for name, values in times.items()}
    with tempfile.TemporaryDirectory() as folder:
        trace = args.profile or Path(folder)
        with jax.profiler.trace(str(trace)):
            whole()
        events = read_events(trace)
    copies = ("Memcpy", "memcpy", "MemcpyH2D", "MemcpyD2H")
    busy = [e for e in device_events(events) if not e["name"].startswith(copies)]
    best["device work"] = sum(event["dur"] for event in busy) / 1e6

    flops = 2 * len(query) * len(gallery) * DIMENSIONS
    device = jax.devices()[0].device_kind
    print(f"\n{device}; {platform.machine()}; jax {jax.__version__}; {len(query):,} x ", end="")
    print(f"{len(gallery):,} x {DIMENSIONS}: {flops / 1e12:.2f} TFLOP\n")
    print("| | ms | x product | TFLOP/s | first call, s |\n|---|---:|---:|---:|---:|")
    for name, seconds in best.items():
        first = f"{times[name][0]:.1f}" if name in times else ""
        ratio = seconds / best["product"]
        rate = "" if "upload " in name else f"{flops / seconds / 1e12:,.1f}"
        print(f"| {name} | {1e3 * seconds:,.1f} | {ratio:.2f} | {rate} | {first} |")
    print("\n" + "\n".join(summarise(events, 12)))


if __name__ == "__main__":
    main()
