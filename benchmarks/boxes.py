"""The time to embed the boxes of a frame, as a tracker waits for it, beside onnxruntime.

    python benchmarks/boxes.py [--backbone osnet_x0_25 osnet_x1_0] [--boxes 1 8 32] [--frames 200]
                               [--json FILE]

Both embed the same network with random weights. `jax` is `Model.embed(frame, boxes=...)` after
`prepare_boxes`. `onnx` is the file of `export` in onnxruntime with its default threads, in one step
of all boxes, whose crops are cut and resized by the same code. They take turns, frame by frame. The
first ten frames are not counted. The features must agree to 1e-4, or nothing is printed. The time
of each includes cutting and resizing. --json keeps the median, the 99th percentile and the machine
(default docs/results/boxes.json); docs/trackers.md has the table.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from experiments import processor

import batnet_jax
from batnet_jax.config import default_config
from batnet_jax.data.loading.loader import resize_into
from batnet_jax.data.loading.user_arrays import cut_boxes
from batnet_jax.export import to_onnx
from batnet_jax.inference.restore import restore_network
from batnet_jax.models import osnet
from batnet_jax.runtime.atomic_write import write_atomically
from batnet_jax.step.train_step import init_state, make_recipe
from batnet_jax.workdir import checkpoints

FRAME = (720, 1280)
WARM_UP = 10
Way = Callable[[np.ndarray, np.ndarray], np.ndarray]


def make_ways(backbone: str, folder: Path) -> dict[str, Way]:
    """Return the two ways to embed boxes [n, 4] of a frame [h, w, 3]."""
    config = default_config()
    config.model.update({"backbone": backbone, "attention": "none", "num_parts": 0})
    config.model.update({"neck": "fc" if backbone in osnet.BACKBONES else "bnneck"})
    recipe = make_recipe(config, num_identities=1, steps_per_epoch=1)
    state = init_state(recipe, tuple(config.data.image_size))
    with checkpoints.open_manager(folder) as manager:
        metadata = checkpoints.metadata(config, [["random", 0, ""]])
        checkpoints.save(manager, 0, state, metadata)
    model = batnet_jax.load(folder)
    model.prepare_boxes()
    network, variables = restore_network(config, folder, 0)
    size = model.image_size
    content = to_onnx(network, variables, size)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def by_onnx(frame: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        crops = cut_boxes(frame, boxes, channels="rgb", alpha="white")
        images = np.empty((len(crops), *size, 3), np.uint8)
        for crop, image in zip(crops, images, strict=True):
            resize_into(crop, image)
        return np.asarray(session.run(["features"], {"images": images})[0])

    return {"jax": lambda frame, boxes: model.embed(frame, boxes=boxes), "onnx": by_onnx}


def draw_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return upright boxes inside a frame, [count, 4]."""
    heights = rng.integers(80, 320, count)
    widths = heights * 2 // 5
    top, left = rng.integers(0, FRAME[0] - heights), rng.integers(0, FRAME[1] - widths)
    return np.stack([left, top, left + widths, top + heights], axis=1)


def measure(ways: dict[str, Way], count: int, frames: int) -> dict[str, np.ndarray]:
    """Return the seconds of each way for each frame."""
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(frames + WARM_UP):
        frame = rng.integers(0, 256, (*FRAME, 3), np.uint8)
        boxes, features = draw_boxes(rng, count), {}
        for name in sorted(ways, reverse=bool(number % 2)):
            start = time.perf_counter()
            features[name] = ways[name](frame, boxes)
            seconds[name].append(time.perf_counter() - start)
        np.testing.assert_allclose(features["jax"], features["onnx"], atol=1e-4)
    return {name: np.array(own[WARM_UP:]) for name, own in seconds.items()}


def run(backbones: list[str], counts: list[int], frames: int) -> dict[str, Any]:
    """Return the milliseconds of both ways, for each network and each number of boxes."""
    rows = []
    for backbone in backbones:
        with tempfile.TemporaryDirectory() as folder:
            ways = make_ways(backbone, Path(folder))
            for count in counts:
                row: dict[str, Any] = {"backbone": backbone, "boxes": count}
                for name, seconds in measure(ways, count, frames).items():
                    p50, p99 = 1e3 * np.quantile(seconds, [0.5, 0.99])
                    row |= {f"{name}_p50": float(p50), f"{name}_p99": float(p99)}
                rows.append(row)
                print(row, flush=True)
    versions = {name: version(name) for name in ("jax", "onnxruntime")}
    return {"machine": processor(), "versions": versions, "frames": frames, "rows": rows}


def about(found: dict[str, Any]) -> str:
    """Return a line on the machine."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    height, width = FRAME
    return f"{found['frames']} frames of {width} x {height}; {found['machine']}; {versions}"


def table(found: dict[str, Any]) -> str:
    """Return the table for docs/trackers.md."""
    lines = [
        "| network | boxes | jax p50, ms | p99 | onnx p50, ms | p99 | onnx / jax, p50 | p99 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found["rows"]:
        cells = [f"{row[f'{way}_{own}']:.1f}" for way in ("jax", "onnx") for own in ("p50", "p99")]
        cells += [f"{row[f'onnx_{own}'] / row[f'jax_{own}']:.2f}" for own in ("p50", "p99")]
        lines.append(f"| `{row['backbone']}` | {row['boxes']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", nargs="+", default=["osnet_x0_25", "osnet_x1_0"])
    parser.add_argument("--boxes", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--json", type=Path, default=Path("docs/results/boxes.json"))
    options = parser.parse_args()
    found = run(options.backbone, options.boxes, options.frames)
    write_atomically(options.json, json.dumps(found, indent=1) + "\n")
    print(f"\n{about(found)}\n\n{table(found)}")


if __name__ == "__main__":
    main()
