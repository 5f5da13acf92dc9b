"""An evaluation from a network to its files: rank each test, write figures and a picture."""

import io
import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from batnet_jax import retrieval
from batnet_jax.data import Split
from batnet_jax.data.run_data import RetrievalTest
from batnet_jax.errors import printable
from batnet_jax.evaluation.baselines import measure_baselines
from batnet_jax.evaluation.embed import Embed
from batnet_jax.evaluation.extra_figures import (
    compute_extra_figures,
    format_extra_figures,
    format_row,
)
from batnet_jax.evaluation.query_figures import QueryFigures, make_query_figures, to_bytes
from batnet_jax.evaluation.ranked_test import RankedTest, rank_test
from batnet_jax.report.ranked_list import SHAPE, Person, RankedList, draw_ranked_lists
from batnet_jax.report.sections import title_of
from batnet_jax.runtime import processes
from batnet_jax.workdir import best_checkpoint
from batnet_jax.workdir.gcs import write_whole
from batnet_jax.workdir.people import keep_names
from batnet_jax.workdir.results import EVAL, PROTOCOL, is_whole, read_whole_results


def run_tests(
    config: ml_collections.ConfigDict,
    tests: Sequence[RetrievalTest],
    embed: Embed,
    *,
    step: int,
    workdir: Path,
    make_untrained: Callable[[], Embed] | None = None,
) -> list[dict[str, Any]]:
    """Evaluate each test, and print its table, with rows of the baselines.

    Args:
      config: its `eval` and `data` sections are read.
      tests: of the run.
      embed: see `make_embed`.
      step: training steps the model has taken.
      workdir: where to write; see `write_result`.
      make_untrained: see `measure_baselines`; None to print no baselines.
    Returns: the results that the files hold, in the order of the tests.
    """
    results = []
    for test, stems in zip(tests, file_stems(tests, step), strict=True):
        results.append(run_test(config, test, embed, step=step, workdir=workdir, stems=stems))
        rows = {}
        if make_untrained is not None:
            rows = measure_baselines(config, test, make_untrained, workdir)
        if processes.is_lead():
            tell_figures(results[-1], rows, workdir)
            path = workdir / EVAL / f"{stems[-1]}.json"
            print(printable(f"written: {path}, {path.with_suffix('.png')}"))
    return results


def run_test(
    config: ml_collections.ConfigDict,
    test: RetrievalTest,
    embed: Embed,
    *,
    step: int,
    workdir: Path,
    stems: Sequence[str],
) -> dict[str, Any]:
    """Evaluate a test and write its files, see `write_result`.

    Args:
      config: its `eval` and `data` sections are read.
      test: query and gallery.
      embed: see `make_embed`.
      step: training steps the model has taken.
      workdir: where to write.
      stems: see `file_stems`.
    Returns: the contents of the JSON file; figures are fractions.
    """
    with rank_test(config, test, embed, breakdown=config.eval.breakdown) as ranked:
        lists = sample_ranked_lists(ranked)
        result = make_result(config, ranked, step)
    if processes.is_lead():
        per_query = ranked.figures["per_query"]
        queries = make_query_figures(result, per_query, test, config.eval.multi_query)
        write_result(result, queries, lists, workdir / EVAL, stems)
        keep_names(workdir, test.name, test.names)
    return result


def file_stems(tests: Sequence[RetrievalTest], step: int) -> list[list[str]]:
    """Return the names of each test's files, without suffix.

    The first test's file is `step_<step>`. If a split has several tests, each of its tests also
    has `step_<step>_<data set>`. Names of validation tests end in `_val`.
    """
    counts = {"val": 0, "test": 0}
    totals = {split: sum(test.split == split for test in tests) for split in counts}
    stems = []
    for test in tests:
        suffix = "_val" if test.split == "val" else ""
        own = [] if counts[test.split] else [f"step_{step}{suffix}"]
        if totals[test.split] > 1:
            own.append(f"step_{step}_{test.name}{suffix}")
        counts[test.split] += 1
        stems.append(own)
    return stems


def is_evaluated(workdir: Path, tests: Sequence[RetrievalTest], step: int) -> bool:
    """Return whether the evaluation of a step is finished: all its results can be read."""
    if any(test.split == "val" for test in tests) and step not in best_checkpoint.read(workdir):
        return False
    stems = itertools.chain.from_iterable(file_stems(tests, step))
    return all(is_whole(workdir / EVAL / f"{stem}.json") for stem in stems)


def make_result(config: ml_collections.ConfigDict, ranked: RankedTest, step: int) -> dict[str, Any]:
    """Return the contents of a test's `eval/step_<N>.json`, with the config's extra figures."""
    test = ranked.test
    figures = {name: value for name, value in ranked.figures.items() if name != "per_query"}
    if test.names and "per_identity" in figures:
        figures["per_identity"] = {
            pid: {"name": test.name_of(int(pid)), **own}
            for pid, own in figures["per_identity"].items()
        }
    extra = compute_extra_figures(
        config, ranked.query, ranked.gallery, ranked.same_camera, ranked.left_out
    )
    return {
        "dataset": test.name,
        "split": test.split,
        "step": step,
        **figures,
        "same_camera": ranked.same_camera,
        **({} if ranked.left_out is None else {"leave_out_own": True}),
        **extra,
    }


def sample_ranked_lists(ranked: RankedTest, *, rows: int = 5, places: int = 10) -> list[RankedList]:
    """Return the first places of a few queries, evenly spaced over the query set."""
    query, gallery = ranked.test.query, ranked.test.gallery
    chosen = np.unique(np.linspace(0, len(query) - 1, rows).astype(int))
    heads = retrieval.first_places(
        ranked.query.take(chosen),
        ranked.gallery,
        same_camera=ranked.same_camera,
        left_out=take_left_out(ranked, chosen),
        places=places,
    )
    lists = []
    query_images = ranked.query_store.originals(chosen, SHAPE)
    for q, query_image, head in zip(chosen, query_images, heads, strict=True):
        items = np.array([place.item for place in head.first], int)
        people = [
            person_of(ranked.test, gallery, g, image)
            for g, image in zip(items, ranked.gallery_store.originals(items, SHAPE), strict=True)
        ]
        person = person_of(ranked.test, query, q, query_image)
        average_precision = ranked.figures["per_query"]["average_precision"][q]
        lists.append(RankedList(person, average_precision, people))
    return lists


def person_of(test: RetrievalTest, split: Split, i: int, image: np.ndarray) -> Person:
    """Return image i of one of a test's splits, as pictures show it."""
    pid = int(split.pids[i])
    return Person(image, pid, camera_of(split, i), test.name_of(pid))


def take_left_out(ranked: RankedTest, queries: np.ndarray) -> retrieval.ItemLists | None:
    """Return the gallery items that some queries leave out; None for none."""
    return None if ranked.left_out is None else retrieval.take_lists(ranked.left_out, queries)


def camera_of(split: Split, i: int) -> int | None:
    """Return the camera of image i, or None if the camera is unknown."""
    return int(split.cameras[i]) if split.cameras[i] >= 0 else None


def write_result(
    result: dict[str, Any],
    queries: QueryFigures,
    lists: Sequence[RankedList],
    folder: Path,
    stems: Sequence[str],
) -> None:
    """Write a result (.json), its queries' figures (.npz) and its picture (.png).

    Args:
      result: the contents of the .json.
      queries: the contents of the .npz.
      lists: the rows of the picture.
      folder: where to write; made if it does not exist.
      stems: the files' names without suffix; each gets all three files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        path, picture = folder / f"{stem}.json", folder / f"{stem}.png"
        write_whole(path.with_suffix(".npz"), to_bytes(queries))
        drawn = io.BytesIO()
        draw_ranked_lists(
            drawn,
            lists,
            dataset=title_of(result),
            step=result["step"],
            mean_ap=result["mAP"],
            ap=result["ap"],
        )
        write_whole(picture, drawn.getvalue())
        # The figures are written last and atomically: their file says that all files are complete.
        write_whole(path, json.dumps(result, indent=2) + "\n")


def tell_figures(
    result: dict[str, Any], baselines: Mapping[str, Mapping[str, Any]], workdir: Path
) -> None:
    """Print the table of a result, and warn on stderr if a baseline is above it.

    Args:
      result: the contents of the .json.
      baselines: see `measure_baselines`.
      workdir: of the run; its evaluation before this one is a row of the table.
    """
    rows = dict(baselines)
    before = result_before(workdir, result)
    if before is not None:
        rows = {f"step {before['step']}, evaluated before": before, **rows}
    print(format_table(result, rows))
    if line := warn_of_baselines(result, baselines):
        print(line, file=sys.stderr)


def result_before(workdir: Path, result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the last result of an earlier step on the same test; None if there is none."""
    same = (*PROTOCOL, "num_query", "num_gallery")
    mine = {"leave_out_own": False} | dict(result)
    for _, found in read_whole_results(workdir)[0]:
        is_same = all(found.get(name) == mine[name] for name in same)
        if is_same and found["step"] < result["step"] and "mINP" in found:
            return found
    return None


def warn_of_baselines(result: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a warning if a baseline is above a result, by mAP or Rank-1; "" if none is."""

    def describe(figures: Mapping[str, Any]) -> str:
        return f"{100 * figures['mAP']:.1f}% mAP, {100 * figures['cmc']['1']:.1f}% Rank-1"

    above = [
        f"{name} ({describe(own)})"
        for name, own in baselines.items()
        if own["mAP"] > result["mAP"] or own["cmc"]["1"] > result["cmc"]["1"]
    ]
    if not above:
        return ""
    return printable(
        f"warning: {title_of(result)}, step {result['step']}: the network ({describe(result)}) is "
        f"below {', '.join(above)}: it has not learnt to tell these people apart; train longer, or "
        "start from pretrained weights (docs/weights.md)"
    )


def format_table(
    result: dict[str, Any], rows: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """Return the CMC/mAP table for people, in per cent.

    Args:
      result: the contents of the .json.
      rows: mAP, mINP and cmc to compare with, by name.
    """
    columns = {"mAP": result["mAP"], "mINP": result["mINP"]}
    columns |= {f"Rank-{rank}": value for rank, value in result["cmc"].items()}
    head = (
        f"{title_of(result)}, step {result['step']}: {result['num_valid_query']} of"
        f" {result['num_query']} queries, gallery {result['num_gallery']}, AP: {result['ap']}"
    )
    if result["same_camera"] == "keep":
        head += ", same camera kept"
    if result.get("leave_out_own"):
        head += ", own images left out"
    names = "".join(f"{name:>9}" for name in columns)
    values = "".join(f"{100 * value:>8.1f}%" for value in columns.values())
    values += f"  step {result['step']}" if rows else ""
    extra = format_extra_figures(result, list(columns))
    compared = [format_row(name, own, list(columns)) for name, own in (rows or {}).items()]
    return "\n".join([printable(head), names, values, *extra, *compared])
