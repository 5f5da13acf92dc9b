"""A trained network in JAX, onnxruntime and OpenVINO: features, retrieval and time in one run.

    python benchmarks/deployed.py runs/demo [--batches 1 32] [--turns 30] [--json FILE]

The network and the data set are those of a run. Everything runs on the CPU. `jax float32` is
`embed_step` under `jax.jit`, `jax bfloat16` the same with `model.dtype=bfloat16`. `onnxruntime` and
`openvino float32` run the file of `batnet export RUN F.onnx`; `openvino bfloat16` lets OpenVINO
compute in that type. `openvino int8` is the file after `nncf.quantize` on images of the training
set. The features of the first test's query and gallery are compared with `jax float32`: the mean
and the lowest cosine. mAP and Rank-1 follow from each way's own features. Then the ways take turns,
call by call, and the median counts. --json keeps all (default docs/results/deployed.json);
docs/export.md has the table.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from experiments import processor

from batnet_jax import retrieval
from batnet_jax.data.run_data import open_run_data, open_store
from batnet_jax.evaluation.embed import embed_step
from batnet_jax.evaluation.ranked_test import choose_same_camera
from batnet_jax.export import to_onnx
from batnet_jax.inference.restore import restore_trained
from batnet_jax.inference.saved_settings import read_config
from batnet_jax.runtime.atomic_write import write_atomically
from batnet_jax.workdir.checkpoints import choose_step

Way = Callable[[np.ndarray], np.ndarray]
PACKAGES = ("jax", "onnxruntime", "openvino", "nncf")
EMBEDDED = 32  # images at a time, for the features
CALIBRATION = 300
"""Images by which nncf chooses the ranges of int8, its own default."""


def make_ways(network: Any, variables: dict[str, Any], size: tuple, images: np.ndarray) -> dict:
    """Return the ways to embed [b, h, w, 3] bytes.

    Args:
      network: of the run.
      variables: of the run.
      size: (height, width) of its images.
      images: of the training set, for the ranges of int8.
    """
    import nncf
    import onnxruntime
    import openvino

    on_device = jax.device_put(variables)
    onnx = to_onnx(network, variables, size)
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    model = core.read_model(onnx)
    calibration = nncf.Dataset([image[None] for image in images])
    quantized = nncf.quantize(model, calibration, subset_size=len(images))

    def by_jax(dtype: Any) -> Way:
        step = jax.jit(partial(embed_step, model=network.clone(dtype=dtype)))
        return lambda images: np.asarray(step(on_device, images), np.float32)

    def by_openvino(model: Any, precision: str) -> Way:
        hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        compiled = core.compile_model(model, "CPU", hints)
        return lambda images: np.asarray(compiled(images)[0], np.float32)

    return {
        "jax float32": by_jax(jnp.float32),
        "jax bfloat16": by_jax(jnp.bfloat16),
        "onnxruntime float32": lambda images: np.asarray(session.run(None, {"images": images})[0]),
        "openvino float32": by_openvino(model, "f32"),
        "openvino bfloat16": by_openvino(model, "bf16"),
        "openvino int8": by_openvino(quantized, "f32"),
    }


def embed_all(way: Way, images: np.ndarray) -> np.ndarray:
    """Return the features of many images; the last batch is filled up, so that shapes repeat."""
    features = []
    for start in range(0, len(images), EMBEDDED):
        part = images[start : start + EMBEDDED]
        whole = np.resize(part, (EMBEDDED, *part.shape[1:]))
        features.append(way(whole)[: len(part)])
    return np.concatenate(features)


def compare(features: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Return the mean and the lowest cosine of features with those of jax float32."""

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    cosines = (unit(features.astype(np.float64)) * unit(wanted.astype(np.float64))).sum(1)
    return {"cosine": float(cosines.mean()), "lowest_cosine": float(cosines.min())}


def measure(ways: dict[str, Way], images: np.ndarray, turns: int) -> dict[str, float]:
    """Return the median of the milliseconds of each way for a batch."""
    for way in ways.values():
        way(images)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns):
        for name in sorted(ways, reverse=bool(turn % 2)):
            start = time.perf_counter()
            ways[name](images)
            spent[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(own)) for name, own in spent.items()}


def run(workdir: Path, batches: list[int], turns: int) -> dict[str, Any]:
    """Return the figures of all ways."""
    config = read_config(workdir)
    network, variables, steps = restore_trained(config, workdir, choose_step(workdir, 0))
    size = tuple(config.data.image_size)
    data = open_run_data(config)
    test = data.tests[0]
    splits = {"train": data.train.images, "query": test.query, "gallery": test.gallery}
    images = {}
    for name, split in splits.items():
        with open_store(config, split) as store:
            count = min(len(split), CALIBRATION) if name == "train" else len(split)
            rows = np.linspace(0, len(split) - 1, count).astype(int)
            images[name] = store.batch(rows)
    ways = make_ways(network, variables, size, images.pop("train"))
    tested = np.concatenate([images["query"], images["gallery"]])
    rows, wanted = {}, np.zeros(0)
    for name, way in ways.items():
        features = embed_all(way, tested)
        wanted = features if name == "jax float32" else wanted
        figures = retrieval.evaluate(
            features[: len(test.query)],
            test.query.pids,
            test.query.cameras,
            features[len(test.query) :],
            test.gallery.pids,
            test.gallery.cameras,
            ap=config.eval.ap,
            same_camera=choose_same_camera(config, test),
        )
        rows[name] = compare(features, wanted)
        rows[name] |= {"mAP": float(figures["mAP"]), "rank1": float(figures["cmc"]["1"])}
        print(f"{name}: {rows[name]}", flush=True)
    for batch in batches:
        for name, spent in measure(ways, tested[:batch], turns).items():
            rows[name][f"ms_{batch}"] = spent
    return {
        "machine": processor(),
        "versions": {name: version(name) for name in PACKAGES},
        "backbone": str(config.model.backbone),
        "steps": steps,
        "test": f"{config.data.dataset}:{config.data.variant}",
        "image_size": size,
        "batches": batches,
        "turns": turns,
        "rows": rows,
    }


def table(found: dict[str, Any]) -> str:
    """Return the table for docs/export.md."""
    times = [f"batch {batch}, ms" for batch in found["batches"]]
    columns = ["", "cosine, mean", "lowest", "mAP", "Rank-1"]
    columns += [cell for own in times for cell in (own, "jax / this")]
    lines = [f"| {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) - 1)}"]
    base = found["rows"]["jax float32"]
    for name, row in found["rows"].items():
        cells = [f"{row[key]:.5f}" for key in ("cosine", "lowest_cosine")]
        cells += [f"{row[key]:.3f}" for key in ("mAP", "rank1")]
        for batch in found["batches"]:
            key = f"ms_{batch}"
            cells += [f"{row[key]:.1f}", f"{base[key] / row[key]:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def about(found: dict[str, Any]) -> str:
    """Return a line on the run and the machine."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    height, width = found["image_size"]
    return (
        f"`{found['backbone']}` after {found['steps']} steps on `{found['test']}`, images of "
        f"{height} x {width}; {found['machine']}; {versions}"
    )


def main() -> None:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--json", type=Path, default=Path("docs/results/deployed.json"))
    options = parser.parse_args()
    found = run(options.workdir, options.batches, options.turns)
    write_atomically(options.json, json.dumps(found, indent=1) + "\n")
    print(f"\n{about(found)}\n\n{table(found)}")


if __name__ == "__main__":
    main()
