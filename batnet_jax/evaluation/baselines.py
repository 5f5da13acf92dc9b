"""Baselines of a test, reached without training: chance, raw pixels, and the initial weights.

A figure needs a comparison: on easy images raw pixels find most people. The baselines of a test set
are computed once and kept in the workdir's `baselines.json`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from batnet_jax import retrieval
from batnet_jax.data import Split
from batnet_jax.data.run_data import RetrievalTest, describe_sets, open_store
from batnet_jax.evaluation.embed import Embed, extract_features
from batnet_jax.evaluation.own_images import find_own_images
from batnet_jax.evaluation.ranked_test import choose_same_camera
from batnet_jax.retrieval import ImageSet, Labels, chance_figures, check_images
from batnet_jax.runtime import devices, processes
from batnet_jax.runtime.read_files import is_number, read_json
from batnet_jax.workdir.gcs import reached, write_whole

KEPT = "baselines.json"
VERSION = 1
CHANCE, PIXELS, UNTRAINED = "chance", "raw pixels", "untrained net"
LEAST_PIXELS = 128
"""Pixels of the small image that stands for raw pixels; with more, figures hardly change."""
FIGURES = ("mAP", "mINP", "cmc")


def measure_baselines(
    config: ml_collections.ConfigDict,
    test: RetrievalTest,
    make_untrained: Callable[[], Embed],
    workdir: Path,
) -> dict[str, dict[str, Any]]:
    """Return the figures of a test's baselines; compute them unless the workdir keeps them.

    All processes must call this function. The first time each image is embedded twice: as raw
    pixels, and by the untrained network.

    Args:
      config: its `eval`, `data` and `model` sections, and its seed, are read.
      test: query and gallery.
      make_untrained: returns the network with its initial weights, as an embedding.
      workdir: of the run.
    Returns: mAP, mINP and cmc as in `eval/step_<N>.json`, by the names of this module. The
      untrained network is missing if its features are not finite.
    """
    key = _key(config, test)
    kept = processes.by_lead(lambda: read_kept(workdir, test, key))
    if kept is not None:
        return kept
    found = _measure(config, test, {UNTRAINED: make_untrained(), PIXELS: raw_pixels})
    if processes.is_lead():
        _keep(workdir, test, key, found)
    return found


def raw_pixels(images: np.ndarray) -> np.ndarray:
    """Return images made small, less each image's mean.

    Blocks of pixels are averaged until an image has about `LEAST_PIXELS`.

    Args:
      images: [b, h, w, 3] bytes.
    Returns: [b, d] float32, from -1 to 1.
    """
    count, height, width, _ = images.shape
    side = 1
    while (
        height % (2 * side) == width % (2 * side) == 0
        and height * width >= 4 * side**2 * LEAST_PIXELS
    ):
        side *= 2
    blocks = images.reshape(count, height // side, side, width // side, side, 3)
    flat = blocks.mean((2, 4), dtype=np.float32).reshape(count, -1) / np.float32(255)
    return flat - flat.mean(1, keepdims=True)


def _measure(
    config: ml_collections.ConfigDict, test: RetrievalTest, embeds: Mapping[str, Embed]
) -> dict[str, dict[str, Any]]:
    """Compute the figures of a test for several embeddings, and of chance; decode images once."""
    ends: list[int] = []

    def embed_all(images: np.ndarray) -> np.ndarray:
        features = [embed(images) for embed in embeds.values()]
        ends[:] = np.cumsum([part.shape[1] for part in features]).tolist()
        return np.concatenate(features, 1)

    def features_of(split: Split, name: str) -> np.ndarray:
        with open_store(config, split, keep=False) as store:
            batch = devices.round_up(config.eval.batch)
            return extract_features(store, embed_all, batch=batch, name=f"baselines, {name}")

    same_camera = choose_same_camera(config, test)
    left_out = find_own_images(test) if config.eval.leave_out_own else None
    options = retrieval.Options(ap=config.eval.ap, same_camera=same_camera)
    splits = {"query": test.query, "gallery": test.gallery, "more_query": test.more_query}
    features = {name: features_of(own, name) for name, own in splits.items() if own is not None}

    def images(name: str, first: int, last: int) -> ImageSet:
        split = splits[name]
        assert split is not None
        return check_images(name, features[name][:, first:last], split.pids, split.cameras)

    found = {}
    for name, first, last in zip(embeds, [0, *ends], ends, strict=False):
        if not all(np.isfinite(own[:, first:last]).all() for own in features.values()):
            continue  # the initial weights of a network are no reason to end
        query = images("query", first, last)
        if "more_query" in features:
            more = images("more_query", first, last)
            query = retrieval.pool_queries(query, more, config.eval.multi_query)
        gallery = images("gallery", first, last)
        figures = retrieval.evaluate_sets(query, gallery, options, left_out=left_out)
        found[name] = {figure: figures[figure] for figure in FIGURES}
    labels = [Labels(split.pids, split.cameras) for split in (test.query, test.gallery)]
    protocol = {"ap": config.eval.ap, "same_camera": same_camera, "left_out": left_out}
    return found | {CHANCE: chance_figures(*labels, **protocol)}


def _key(config: ml_collections.ConfigDict, test: RetrievalTest) -> str:
    """Return a hash of everything that the baselines of a test depend on."""
    what = {
        "version": VERSION,
        "sets": describe_sets(test),
        "ap": config.eval.ap,
        "same_camera": choose_same_camera(config, test),
        "leave_out_own": config.eval.leave_out_own,
        "multi_query": config.eval.multi_query,
        "image_size": list(config.data.image_size),
        "alpha": config.data.alpha,
        "model": json.loads(config.model.to_json()),
        "seed": config.seed,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def read_kept(
    workdir: Path, test: RetrievalTest, key: str | None = None
) -> dict[str, dict[str, Any]] | None:
    """Return the kept baselines of a test; None if they are missing or damaged.

    Args:
      workdir: of the run.
      test: query and gallery.
      key: of the settings; None = of any.
    """
    entry: Any = _read(workdir).get(_title(test))
    try:
        if key is not None and entry["key"] != key:
            return None
        return {name: _check(figures) for name, figures in entry["figures"].items()}
    except (TypeError, KeyError, AttributeError, ValueError):
        return None


def _check(figures: Any) -> dict[str, Any]:
    """Return the figures of a row.

    Raises: ValueError, KeyError, TypeError or AttributeError for anything else.
    """
    shares = [figures["mAP"], figures["mINP"], figures["cmc"]["1"], *figures["cmc"].values()]
    if not all(is_number(share) and 0 <= share <= 1 for share in shares):
        raise ValueError("no shares")
    return {name: figures[name] for name in FIGURES}


def _read(workdir: Path) -> dict[str, Any]:
    """Return the contents of the file; empty if it is missing or damaged: it is written again."""
    try:
        found = read_json(workdir / KEPT)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(workdir: Path, test: RetrievalTest, key: str, figures: Mapping[str, Any]) -> None:
    """Write the baselines of a test; keep those of other tests."""
    found = _read(workdir) | {_title(test): {"key": key, "figures": figures}}
    with reached(workdir):
        write_whole(workdir / KEPT, json.dumps(found, indent=1) + "\n")


def _title(test: RetrievalTest) -> str:
    return f"{test.name} {test.split}"
