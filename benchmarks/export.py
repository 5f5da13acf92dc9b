"""What an exported network costs: latency and throughput beside JAX, in one process.

    python benchmarks/export.py [--width 1.0] [--image-size 256 128] [--seconds 8] [--folder DIR]

`jax` is `embed_step` under `jax.jit`, with the weights as arguments. `stablehlo` is the .stablehlo
file of --mode=export, read back by `jax.export` and called under `jax.jit`. `onnx` is the .onnx
file in onnxruntime on the CPU, with the default number of threads. The weights are random, because
the time does not depend on them. The three take turns, call by call. The first calls are not timed,
and the best call counts, because the machine may have other work. The features must agree to 1e-4,
or nothing is printed. --folder keeps the files, and a later run with the same folder only measures.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
import onnxruntime
from jax import export

from batnet_jax.config import default_config
from batnet_jax.evaluation.embed import embed_step
from batnet_jax.export import to_onnx, to_stablehlo
from batnet_jax.models.build import make_model
from batnet_jax.models.init_variables import draw_variables

Way = Callable[[np.ndarray], np.ndarray]
BATCHES = (1, 64)


def make_ways(width: float, size: tuple[int, int], folder: Path) -> dict[str, Way]:
    """The ways to embed; says how large the files are."""
    config = default_config()
    config.model.width = width
    model = make_model(config, 751)  # Market-1501's
    variables = draw_variables(model, size, 0)
    contents = {}
    for name, convert in (("stablehlo", to_stablehlo), ("onnx", to_onnx)):
        path = folder / f"{width:g}_{size[0]}x{size[1]}.{name}"
        if not path.exists():
            start = time.perf_counter()
            path.write_bytes(convert(model, variables, size))
            print(f"{path.name}: written in {time.perf_counter() - start:.0f} s")
        contents[name] = path.read_bytes()
        print(f"{path.name}: {len(contents[name]) / 1e6:.0f} MB")
    step = jax.jit(partial(embed_step, model=model))
    on_device = jax.device_put(variables)
    exported = jax.jit(export.deserialize(bytearray(contents["stablehlo"])).call)
    session = onnxruntime.InferenceSession(contents["onnx"], providers=["CPUExecutionProvider"])
    return {
        "jax": lambda images: np.asarray(step(on_device, images)),
        "stablehlo": lambda images: np.asarray(exported(images)),
        "onnx": lambda images: np.asarray(session.run(["features"], {"images": images})[0]),
    }


def measure(ways: dict[str, Way], images: np.ndarray, seconds: float) -> dict[str, float]:
    """Seconds of the best call of each way."""
    want = ways["jax"](images)
    for name, way in ways.items():
        difference = np.abs(way(images) - want).max()
        assert difference < 1e-4, f"{name} differs by {difference}"
    best = dict.fromkeys(ways, np.inf)
    end = time.perf_counter() + seconds * len(ways)
    while time.perf_counter() < end:
        for name, way in ways.items():
            start = time.perf_counter()
            way(images)
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--image-size", type=int, nargs=2, default=(256, 128))
    parser.add_argument("--seconds", type=float, default=8, help="for each way and batch")
    parser.add_argument("--folder", type=Path, help="where the files are kept; default nowhere")
    args = parser.parse_args()
    size = tuple(args.image_size)
    with TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        ways = make_ways(args.width, size, folder)
    print(f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, ", end="")
    print(f"JAX {jax.__version__}, onnxruntime {onnxruntime.__version__}")
    print(f"width {args.width:g}, images of {size[0]} x {size[1]}\n")
    print("| | latency at batch 1, ms | speed beside jax | images/s at batch 64 | beside jax |")
    print("|---|---:|---:|---:|---:|")
    rng = np.random.default_rng(0)
    one, many = (
        measure(ways, rng.integers(0, 256, (batch, *size, 3), np.uint8), args.seconds)
        for batch in BATCHES
    )
    for name in ways:
        latency, rate = 1e3 * one[name], BATCHES[1] / many[name]
        print(
            f"| {name} | {latency:.1f} | {one['jax'] / one[name]:.2f}x | {rate:.1f} |"
            f" {many['jax'] / many[name]:.2f}x |"
        )


if __name__ == "__main__":
    main()
