"""From a model to its figures: embed query and gallery, rank, write, show (section 5.2)."""

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from batnet_jax import retrieval
from batnet_jax.data import Split
from batnet_jax.data.loading.loader import ImageStore
from batnet_jax.data.run_data import RetrievalTest
from batnet_jax.evaluation.embed import Embed, embed_rows, extract_features
from batnet_jax.evaluation.extra_figures import describe, further_figures
from batnet_jax.report.ranked_list import Person, RankedList, draw_ranked_lists
from batnet_jax.runtime import devices, processes
from batnet_jax.runtime.progress import progress_bar
from batnet_jax.workdir import best_checkpoint
from batnet_jax.workdir.gcs import write_whole


def run_tests(
    config: ml_collections.ConfigDict,
    tests: Sequence[RetrievalTest],
    embed: Embed,
    *,
    step: int,
    workdir: Path,
) -> list[dict[str, Any]]:
    """Evaluates each test; see `run_test` and `file_stems`.

    Returns: what is in the files, in the order of the tests.
    """
    return [
        run_test(config, test, embed, step=step, workdir=workdir, stems=stems)
        for test, stems in zip(tests, file_stems(tests, step), strict=True)
    ]


def file_stems(tests: Sequence[RetrievalTest], step: int) -> list[list[str]]:
    """The names, without ending, of each test's files.

    `step_<step>` is the first test's (CONTRACT); where there are several tests, each also has
    `step_<step>_<data set>`. Validation has `_val` at the end.
    """
    stems = []
    for split, suffix in (("val", "_val"), ("test", "")):
        own = [test for test in tests if test.split == split]
        for number, test in enumerate(own):
            names = [f"step_{step}_{test.name}{suffix}"] if len(own) > 1 else []
            stems.append((test, [f"step_{step}{suffix}"] * (number == 0) + names))
    return [names for test in tests for other, names in stems if other is test]


def is_evaluated(workdir: Path, tests: Sequence[RetrievalTest], step: int) -> bool:
    """Whether a step's evaluation was finished: all its files are there."""
    if any(test.split == "val" for test in tests) and step not in best_checkpoint.read(workdir):
        return False
    stems = itertools.chain.from_iterable(file_stems(tests, step))
    return all((workdir / "eval" / f"{stem}.json").exists() for stem in stems)


def run_test(
    config: ml_collections.ConfigDict,
    test: RetrievalTest,
    embed: Embed,
    *,
    step: int,
    workdir: Path,
    stems: Sequence[str],
) -> dict[str, Any]:
    """Evaluates, writes `eval/<stem>.json` and a picture of ranked lists, prints the table.

    Args:
      config: its `eval` and `data` sections are read.
      test: query and gallery.
      embed: see `make_embed`.
      step: steps the model has been trained for.
      workdir: where to write.
      stems: see `file_stems`.
    Returns: what is in the file (CONTRACT: fractions).
    """
    with ranked(config, test, embed, breakdown=config.eval.breakdown) as found:
        rows = ranked_lists(test, found)
        result = result_of(config, test, found, step)
    if processes.is_lead():
        write_result(result, rows, workdir / "eval", stems)
    return result


class Ranked(NamedTuple):
    """A test that has been embedded, once, and ranked; its images are at hand."""

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
    config: ml_collections.ConfigDict, test: RetrievalTest, embed: Embed, **wanted: Any
) -> Iterator[Ranked]:
    """Embeds the images of a test and ranks its gallery for each query.

    Args:
      config: its `eval` and `data` sections are read.
      test: query and gallery.
      embed: see `make_embed`.
      wanted: further arguments of `retrieval.evaluate_stream`.
    """
    batch = devices.round_up(config.eval.batch)
    with contextlib.ExitStack() as stack:
        stores, features = {}, {}
        for name in ("query", "gallery", "more_query"):
            split = getattr(test, name)
            if split is not None:
                stores[name] = stack.enter_context(open_store(config, split, keep=False))
                if name != "gallery":
                    features[name] = extract_features(stores[name], embed, batch=batch, name=name)
        if test.more_query is not None:
            features["query"] = retrieval.pool_queries(
                (features["query"], test.query.pids, test.query.cameras),
                (features["more_query"], test.more_query.pids, test.more_query.cameras),
                config.eval.multi_query,
            )
        settings = {"ap": config.eval.ap, "same_camera": same_camera(config, test)}
        features["gallery"] = np.zeros((len(test.gallery), features["query"].shape[1]), np.float32)
        there = np.zeros(len(test.gallery), bool)
        bar = stack.enter_context(progress_bar(len(test.gallery), description="embed gallery"))

        def take(rows: np.ndarray) -> np.ndarray:
            if not there[rows].all():  # it may be asked twice, by one of several processes alone
                found = embed_rows(stores["gallery"], rows, embed, batch=batch, progress=bar.update)
                features["gallery"][rows], there[rows] = found, True
            return features["gallery"][rows]

        figures = retrieval.evaluate_stream(
            features["query"],
            (test.query.pids, test.query.cameras),
            take,
            (test.gallery.pids, test.gallery.cameras),
            per_query=True,
            bootstrap=config.eval.bootstrap,
            seed=config.seed,
            **settings,
            **wanted,
        )
        bar.close()
        yield Ranked(stores, features, settings, figures)


def result_of(
    config: ml_collections.ConfigDict, test: RetrievalTest, found: Ranked, step: int
) -> dict[str, Any]:
    """What `eval/step_<N>.json` says of a test, with the figures that the config asks for."""
    figures = {name: value for name, value in found.figures.items() if name != "per_query"}
    kept = found.settings["same_camera"]
    head = {"dataset": test.name, "split": test.split, "step": step}
    further = further_figures(
        config, test, found.features["query"], found.features["gallery"], kept
    )
    return {**head, **figures, "same_camera": kept, **further}


def same_camera(config: ml_collections.ConfigDict, test: RetrievalTest) -> str:
    """What becomes of the images from the query's own camera: they stay if cameras are unknown."""
    known = (test.query.cameras >= 0).all() and (test.gallery.cameras >= 0).all()
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
    test: RetrievalTest, found: Ranked, *, rows: int = 5, places: int = 10
) -> list[RankedList]:
    """The first places of a few queries, evenly spaced over the query set."""
    query, gallery = test.query, test.gallery
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
