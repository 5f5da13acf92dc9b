"""From a model to its figures: embed query and gallery, rank, write, show (section 5.2)."""

import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from batnet_jax import devices, hosts, retrieval, selection
from batnet_jax.bucket import write_whole
from batnet_jax.collection import Trial
from batnet_jax.data import Split
from batnet_jax.data.loader import ImageStore, prefetch
from batnet_jax.interruption import Terminated, is_agreed
from batnet_jax.journal import progress_bar
from batnet_jax.models.layers import AXIS
from batnet_jax.protocols import describe, further_figures
from batnet_jax.report.ranked_list import Person, RankedList, draw_ranked_lists
from batnet_jax.steps import embed_step

Embed = Callable[[np.ndarray], np.ndarray]


def make_embed(model: Any, variables: dict[str, Any]) -> Embed:
    """Images [b, h, w, 3] bytes to features [b, d] float32, b a multiple of the devices.

    Of several processes each gives its own images, and gets the features of these.
    """
    replicated = devices.replicate(variables)
    step = jax.pmap(functools.partial(embed_step, model=model), AXIS, in_axes=(None, 0))

    def embed(images: np.ndarray) -> np.ndarray:
        features = np.asarray(step(replicated, devices.split(images)))
        return features.reshape(-1, features.shape[-1])

    return embed


def extract_features(store: ImageStore, embed: Embed, *, batch: int, name: str) -> np.ndarray:
    """Features of all n images of a store, [n, d] float32."""
    with progress_bar(len(store), description=f"embed {name}") as bar:
        return embed_rows(store, np.arange(len(store)), embed, batch=batch, progress=bar.update)


def embed_rows(
    store: ImageStore,
    rows: np.ndarray,
    embed: Embed,
    *,
    batch: int,
    progress: Callable[[int], Any],
) -> np.ndarray:
    """Features of some images of a store, [n, d] float32; every step has the same shape.

    Several processes share the images, and all get the features of all.

    Raises: Terminated if SIGTERM has come to one of several processes.
    """
    filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % batch)])
    own = filled.reshape(-1, batch)[:, devices.own_rows(batch)]
    features, left = [], len(rows)
    with prefetch(store, own) as batches:
        for _, images in batches:
            features.append(embed(images))
            progress(min(batch, left))
            left -= min(batch, left)
    if is_agreed():
        raise Terminated
    return devices.gather(np.stack(features), batch)[: len(rows)]


def evaluate_trials(
    config: ml_collections.ConfigDict,
    trials: Sequence[Trial],
    embed: Embed,
    *,
    step: int,
    workdir: Path,
) -> list[dict[str, Any]]:
    """Evaluates each trial; see `evaluate_trial` and `file_stems`.

    Returns: what is in the files, in the order of the trials.
    """
    return [
        evaluate_trial(config, trial, embed, step=step, workdir=workdir, stems=stems)
        for trial, stems in zip(trials, file_stems(trials, step), strict=True)
    ]


def file_stems(trials: Sequence[Trial], step: int) -> list[list[str]]:
    """The names, without ending, of each trial's files.

    `step_<step>` is the first test's (CONTRACT); where there are several tests, each also has
    `step_<step>_<data set>`. Validation has `_val` at the end.
    """
    stems = []
    for split, suffix in (("val", "_val"), ("test", "")):
        own = [trial for trial in trials if trial.split == split]
        for number, trial in enumerate(own):
            names = [f"step_{step}_{trial.name}{suffix}"] if len(own) > 1 else []
            stems.append((trial, [f"step_{step}{suffix}"] * (number == 0) + names))
    return [names for trial in trials for other, names in stems if other is trial]


def is_evaluated(workdir: Path, trials: Sequence[Trial], step: int) -> bool:
    """Whether a step's evaluation was finished: all its files are there."""
    if any(trial.split == "val" for trial in trials) and step not in selection.read(workdir):
        return False
    stems = itertools.chain.from_iterable(file_stems(trials, step))
    return all((workdir / "eval" / f"{stem}.json").exists() for stem in stems)


def evaluate_trial(
    config: ml_collections.ConfigDict,
    trial: Trial,
    embed: Embed,
    *,
    step: int,
    workdir: Path,
    stems: Sequence[str],
) -> dict[str, Any]:
    """Evaluates, writes `eval/<stem>.json` and a picture of ranked lists, prints the table.

    Args:
      config: its `eval` and `data` sections are read.
      trial: query and gallery.
      embed: see `make_embed`.
      step: steps the model has been trained for.
      workdir: where to write.
      stems: see `file_stems`.
    Returns: what is in the file (CONTRACT: fractions).
    """
    with ranked(config, trial, embed, breakdown=config.eval.breakdown) as found:
        rows = ranked_lists(trial, found)
        result = result_of(config, trial, found, step)
    if hosts.is_lead():
        write_result(result, rows, workdir / "eval", stems)
    return result


class Ranked(NamedTuple):
    """A trial that has been embedded, once, and ranked; its images are at hand."""

    stores: dict[str, ImageStore]
    """Of `query` and `gallery`."""
    features: dict[str, np.ndarray]
    """Of `query` and `gallery`, [n, d] float32."""
    settings: dict[str, Any]
    """`ap` and `same_camera`, as `retrieval.evaluate` takes them."""
    figures: dict[str, Any]
    """See `retrieval.evaluate`, with `per_query`."""


@contextlib.contextmanager
def ranked(
    config: ml_collections.ConfigDict, trial: Trial, embed: Embed, **wanted: Any
) -> Iterator[Ranked]:
    """Embeds the images of a trial and ranks its gallery for each query.

    Args:
      config: its `eval` and `data` sections are read.
      trial: query and gallery.
      embed: see `make_embed`.
      wanted: further arguments of `retrieval.evaluate_stream`.
    """
    batch = devices.round_up(config.eval.batch)
    with contextlib.ExitStack() as stack:
        stores, features = {}, {}
        for name in ("query", "gallery", "more_query"):
            split = getattr(trial, name)
            if split is not None:
                stores[name] = stack.enter_context(open_store(config, split, keep=False))
                if name != "gallery":
                    features[name] = extract_features(stores[name], embed, batch=batch, name=name)
        if trial.more_query is not None:
            features["query"] = retrieval.pool_queries(
                (features["query"], trial.query.pids, trial.query.cameras),
                (features["more_query"], trial.more_query.pids, trial.more_query.cameras),
                config.eval.multi_query,
            )
        settings = {"ap": config.eval.ap, "same_camera": same_camera(config, trial)}
        features["gallery"] = np.zeros((len(trial.gallery), features["query"].shape[1]), np.float32)
        there = np.zeros(len(trial.gallery), bool)
        bar = stack.enter_context(progress_bar(len(trial.gallery), description="embed gallery"))

        def take(rows: np.ndarray) -> np.ndarray:
            if not there[rows].all():  # it may be asked twice, by one of several processes alone
                found = embed_rows(stores["gallery"], rows, embed, batch=batch, progress=bar.update)
                features["gallery"][rows], there[rows] = found, True
            return features["gallery"][rows]

        figures = retrieval.evaluate_stream(
            features["query"],
            (trial.query.pids, trial.query.cameras),
            take,
            (trial.gallery.pids, trial.gallery.cameras),
            per_query=True,
            bootstrap=config.eval.bootstrap,
            seed=config.seed,
            **settings,
            **wanted,
        )
        bar.close()
        yield Ranked(stores, features, settings, figures)


def result_of(
    config: ml_collections.ConfigDict, trial: Trial, found: Ranked, step: int
) -> dict[str, Any]:
    """What `eval/step_<N>.json` says of a trial, with the figures that the config asks for."""
    figures = {name: value for name, value in found.figures.items() if name != "per_query"}
    kept = found.settings["same_camera"]
    head = {"dataset": trial.name, "split": trial.split, "step": step}
    further = further_figures(
        config, trial, found.features["query"], found.features["gallery"], kept
    )
    return {**head, **figures, "same_camera": kept, **further}


def same_camera(config: ml_collections.ConfigDict, trial: Trial) -> str:
    """What becomes of the images from the query's own camera: they stay if cameras are unknown."""
    known = (trial.query.cameras >= 0).all() and (trial.gallery.cameras >= 0).all()
    return config.eval.same_camera if known else "keep"


def write_result(
    result: dict[str, Any], rows: Sequence[RankedList], folder: Path, stems: Sequence[str]
) -> None:
    """Writes a result and its picture under each of the names; prints its table."""
    folder.mkdir(parents=True, exist_ok=True)
    title = result["dataset"] + " val" * (result["split"] == "val")
    for stem in stems:
        path, picture = folder / f"{stem}.json", folder / f"{stem}.png"
        with picture.open("wb") as file:
            draw_ranked_lists(
                file,
                rows,
                dataset=title,
                step=result["step"],
                mean_ap=result["mAP"],
                ap=result["ap"],
            )
        # Last and at once: where the figures are, the evaluation was finished.
        write_whole(path, json.dumps(result, indent=2) + "\n")
    print(format_table(result))
    print(f"written: {path}, {picture}")


def open_store(config: ml_collections.ConfigDict, split: Split, *, keep: bool = True) -> ImageStore:
    """The decoded images of a split, as the config's `data` section says.

    Args:
      config: its `data` section is read.
      split: the images.
      keep: once decoded; False where each is needed once.
    """
    data = config.data
    return ImageStore(
        split,
        image_size=tuple(data.image_size),
        cache_gb=data.cache_gb * keep,
        workers=data.workers,
        disk_cache=Path(data.dir) / "decoded" / split.fingerprint(),
        disk_cache_gb=data.disk_cache_gb * keep,
    )


def ranked_lists(
    trial: Trial, found: Ranked, *, rows: int = 5, places: int = 10
) -> list[RankedList]:
    """The first places of a few queries, evenly spaced over the query set."""
    query, gallery = trial.query, trial.gallery
    chosen = np.unique(np.linspace(0, len(query) - 1, rows).astype(int))
    heads = retrieval.first_places(
        found.features["query"][chosen],
        query.pids[chosen],
        query.cameras[chosen],
        found.features["gallery"],
        gallery.pids,
        gallery.cameras,
        same_camera=found.settings["same_camera"],
        places=places,
    )
    lists = []
    asked = found.stores["query"].batch(chosen)
    for q, shown, head in zip(chosen, asked, heads, strict=True):
        items = np.array([place.item for place in head.first], int)
        people = [
            Person(image, int(gallery.pids[g]), camera_of(gallery, g))
            for g, image in zip(items, found.stores["gallery"].batch(items), strict=True)
        ]
        person = Person(shown, int(query.pids[q]), camera_of(query, q))
        average_precision = found.figures["per_query"]["average_precision"][q]
        lists.append(RankedList(person, average_precision, people))
    return lists


def camera_of(split: Split, i: int) -> int | None:
    """The camera of image i, None if it is not known."""
    return int(split.cameras[i]) if split.cameras[i] >= 0 else None


def format_table(result: dict[str, Any]) -> str:
    """The CMC/mAP table for people, in per cent."""
    columns = {"mAP": result["mAP"], "mINP": result["mINP"]}
    columns |= {f"Rank-{rank}": value for rank, value in result["cmc"].items()}
    title = result["dataset"] + " val" * (result["split"] == "val")
    head = f"{title}, step {result['step']}: {result['num_valid_query']} of "
    head += f"{result['num_query']} queries, gallery {result['num_gallery']}, AP: {result['ap']}"
    head += ", same camera kept" * (result["same_camera"] == "keep")
    names = "".join(f"{name:>9}" for name in columns)
    values = "".join(f"{100 * value:>8.1f}%" for value in columns.values())
    return "\n".join([head, names, values, *describe(result, list(columns))])
