"""From a model to its figures: embed query and gallery, rank, write, show (section 5.2)."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from batnet_jax import checkpoint, devices, retrieval
from batnet_jax.data import Dataset, Split
from batnet_jax.data.loader import ImageStore, prefetch
from batnet_jax.errors import UserError
from batnet_jax.journal import progress_bar
from batnet_jax.models.layers import AXIS
from batnet_jax.report.ranked_list import Person, RankedList, draw_ranked_lists
from batnet_jax.steps import TrainState, embed_step, init_state, make_recipe

Embed = Callable[[np.ndarray], np.ndarray]


def make_embed(model: Any, variables: dict[str, Any]) -> Embed:
    """Images [b, h, w, 3] bytes to features [b, d] float32, b a multiple of the devices."""
    replicated = devices.replicate(variables)
    step = jax.pmap(functools.partial(embed_step, model=model), AXIS, in_axes=(None, 0))

    def embed(images: np.ndarray) -> np.ndarray:
        features = np.asarray(step(replicated, devices.split(images)))
        return features.reshape(-1, features.shape[-1])

    return embed


def extract_features(store: ImageStore, embed: Embed, *, batch: int, name: str) -> np.ndarray:
    """Features of all n images of a store, [n, d] float32; every step has the same shape."""
    rows = np.arange(-(-len(store) // batch) * batch).reshape(-1, batch)
    features = []
    with (
        prefetch(store, np.minimum(rows, len(store) - 1)) as batches,
        progress_bar(len(store), description=f"embed {name}") as bar,
    ):
        for _, images in batches:
            features.append(embed(images))
            bar.update(min(batch, len(store) - bar.n))
    return np.concatenate(features)[: len(store)]


def evaluate_model(
    config: ml_collections.ConfigDict, dataset: Dataset, embed: Embed, *, step: int, workdir: Path
) -> dict[str, Any]:
    """Evaluates, writes `eval/step_<step>.json` and a picture of ranked lists, prints the table.

    Args:
      config: its `eval` and `data` sections are read.
      dataset: query and gallery.
      embed: see `make_embed`.
      step: steps the model has been trained for.
      workdir: where to write.
    Returns: what is in the file (CONTRACT: fractions).
    """
    features = {}
    stores = {}
    for name in ("query", "gallery"):
        stores[name] = open_store(config, getattr(dataset, name))
        batch = devices.round_up(config.eval.batch)
        features[name] = extract_features(stores[name], embed, batch=batch, name=name)
    settings: dict[str, Any] = {"ap": config.eval.ap, "same_camera": config.eval.same_camera}
    figures = retrieval.evaluate(
        features["query"],
        dataset.query.pids,
        dataset.query.cameras,
        features["gallery"],
        dataset.gallery.pids,
        dataset.gallery.cameras,
        **settings,
    )
    result = {"dataset": dataset.name, "step": step, **figures}
    folder = workdir / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    picture = folder / f"step_{step}.png"
    rows = ranked_lists(dataset, stores, features, settings)
    draw_ranked_lists(
        picture, rows, dataset=dataset.name, step=step, mean_ap=result["mAP"], ap=result["ap"]
    )
    print(format_table(result))
    print(f"written: {path}, {picture}")
    for store in stores.values():
        store.close()
    return result


def open_store(config: ml_collections.ConfigDict, split: Split) -> ImageStore:
    """The decoded images of a split, as the config's `data` section says."""
    data = config.data
    return ImageStore(
        split,
        image_size=tuple(data.image_size),
        cache_gb=data.cache_gb,
        workers=data.workers,
    )


def ranked_lists(
    dataset: Dataset,
    stores: dict[str, ImageStore],
    features: dict[str, np.ndarray],
    settings: dict[str, Any],
    *,
    rows: int = 5,
    places: int = 10,
) -> list[RankedList]:
    """The first places of a few queries, evenly spaced over the query set."""
    query, gallery = dataset.query, dataset.gallery
    lists = []
    for q in np.unique(np.linspace(0, len(query) - 1, rows).astype(int)):
        own = slice(q, q + 1)
        removed = gallery.pids == -1
        if settings["same_camera"] == "remove":
            removed |= (gallery.pids == query.pids[q]) & (gallery.cameras == query.cameras[q])
        wanted = min(places + int(removed.sum()), len(gallery))
        (order,), _ = retrieval.top_k(features["query"][own], features["gallery"], wanted)
        best = [int(g) for g in order if not removed[g]][:places]
        try:
            average_precision = retrieval.evaluate(
                features["query"][own],
                query.pids[own],
                query.cameras[own],
                features["gallery"],
                gallery.pids,
                gallery.cameras,
                **settings,
            )["mAP"]
        except UserError:  # this query has no match
            average_precision = None
        (query_image,) = stores["query"].batch(np.array([q]))
        people = [
            Person(image, int(gallery.pids[g]), int(gallery.cameras[g]))
            for g, image in zip(best, stores["gallery"].batch(np.array(best)), strict=True)
        ]
        person = Person(query_image, int(query.pids[q]), int(query.cameras[q]))
        lists.append(RankedList(person, average_precision, people))
    return lists


def format_table(result: dict[str, Any]) -> str:
    """The CMC/mAP table for people, in per cent."""
    columns = {"mAP": result["mAP"], "mINP": result["mINP"]}
    columns |= {f"Rank-{rank}": value for rank, value in result["cmc"].items()}
    head = f"{result['dataset']}, step {result['step']}: {result['num_valid_query']} of "
    head += f"{result['num_query']} queries, gallery {result['num_gallery']}, AP: {result['ap']}"
    names = "".join(f"{name:>9}" for name in columns)
    values = "".join(f"{100 * value:>8.1f}%" for value in columns.values())
    return f"{head}\n{names}\n{values}"


def restore_model(
    config: ml_collections.ConfigDict, workdir: Path, step: int
) -> tuple[Any, dict[str, Any]]:
    """The network of a checkpoint and its variables.

    Raises: UserError if the checkpoint is of another architecture than the config's.
    """
    run = checkpoint.restore_run(workdir, step)
    check_architecture(config, run, workdir)
    recipe = make_recipe(config, num_identities=len(run["pids"]), steps_per_epoch=1)
    like: TrainState = init_state(recipe, tuple(config.data.image_size))
    state = checkpoint.restore_state(workdir, step, like)
    return recipe.model, {"params": state.params, "batch_stats": state.batch_stats}


def check_architecture(
    config: ml_collections.ConfigDict, run: dict[str, Any], workdir: Path
) -> None:
    """Refuses a config that describes another network than the checkpoint's.

    Raises: UserError naming the first field that differs.
    """
    for field, value in config.model.items():
        saved = run["model"].get(field)
        if saved != value:
            raise UserError(
                f"'{workdir}' holds a network with model.{field}={saved!r}, and the config says "
                f"{value!r}: pass --config.model.{field}={saved}, or another --workdir"
            )
