"""The mode `metrics`: figures of features or distances that any framework wrote."""

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from batnet_jax.errors import UserError, printable
from batnet_jax.evaluation.extra_figures import format_row
from batnet_jax.evaluation.labelled_features import LabelledPair, join_numbers
from batnet_jax.evaluation.sharded_features import read_large_pair
from batnet_jax.modes.flags import check_json, report_write_errors
from batnet_jax.retrieval import (
    Labels,
    SameImageWarning,
    chance_figures,
    check_left_out,
    evaluate,
    evaluate_distances,
)
from batnet_jax.retrieval.label_pairs import number_cameras, number_pids
from batnet_jax.runtime.atomic_write import write_atomically
from batnet_jax.runtime.paths import is_folder
from batnet_jax.runtime.progress import Bar, progress_bar

BAR_DELAY = 2.0
"""Seconds until a progress bar is shown."""


def run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    query: Path,
    gallery: Path | None,
    distances: Path | None,
    metric: str,
    ap: str,
    same_camera: str,
    leave_out_own: bool,
    output: Path | None,
    resume: Path | None = None,
) -> None:
    """Print the figures of two files; write them as JSON if asked.

    Args:
      config: not read.
      workdir: not read.
      query: see `read_large_pair`.
      gallery: see `read_large_pair`.
      distances: see `read_large_pair`.
      metric: "cosine" or "euclidean"; distances are taken as they are.
      ap: see `retrieval.evaluate`.
      same_camera: see `retrieval.evaluate`.
      leave_out_own: leave out each query's own image: of the same path, or, if both sets are one
        file, of the same row.
      output: the .json to write.
      resume: the .npz that keeps the counts, see `retrieval.evaluate`; None to keep none.

    Raises: UserError if a file cannot be read or does not fit.
    """
    del config, workdir
    check_json("output", output)
    _check_resume(resume, distances)
    pair = read_large_pair(query, gallery, distances)
    options: dict[str, Any] = {"ap": ap, "same_camera": same_camera}
    if leave_out_own:
        same_file = gallery is not None and query.resolve() == gallery.resolve()
        options |= own_images(pair, same_file=same_file)
    pids = join_numbers(pair.query.pids, pair.gallery.pids)
    cameras = join_numbers(pair.query.cameras, pair.gallery.cameras, missing=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", SameImageWarning)
        if pair.distances is not None:
            metric = "given distances"
            labels = pids[0], cameras[0], pids[1], cameras[1]
            figures = evaluate_distances(pair.distances, *labels, **options)
        else:
            with _shown_progress(resume) as progress:
                figures = evaluate(
                    np.asanyarray(pair.query.features),
                    pids[0],
                    cameras[0],
                    pair.gallery.features,
                    pids[1],
                    cameras[1],
                    metric=metric,
                    progress=progress,
                    resume=resume,
                    **options,
                )
    for warning in told:
        print(f"warning: {warning.message}; here: --leave_out_own", file=sys.stderr)
    known = cameras[0] is not None and any(camera is not None for camera in cameras[0])
    protocol = {"metric": metric, "same_camera": same_camera if known else "keep"}
    shown = [format_figures(figures, protocol, cameras=known)]
    shown += [format_row("chance", chance_of(pids, cameras, options), columns_of(figures))]
    if output is not None:  # before anything is printed: nobody may read it
        files = {"query": str(query), "gallery": None if gallery is None else str(gallery)}
        with report_write_errors("output", output):
            write_atomically(output, json.dumps(files | figures | protocol, indent=2) + "\n")
        shown += [printable(f"written: {output}")]
    print("\n".join(shown))


def _check_resume(resume: Path | None, distances: Path | None) -> None:
    """Check the file of `--resume` before the work.

    Raises: UserError if it cannot be used.
    """
    if resume is None:
        return
    if distances is not None:
        raise UserError("--resume is for features: leave it out where distances are given")
    if resume.suffix.lower() != ".npz":
        raise UserError(f"--resume={resume} does not end in .npz: name an .npz to keep counts in")
    if not is_folder(resume.absolute().parent):
        raise UserError(f"--resume={resume}: its folder does not exist: make it, or name another")


@contextlib.contextmanager
def _shown_progress(resume: Path | None) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr if an evaluation takes long.

    Raises: UserError if the file of `--resume` cannot be written.
    """
    bars: list[Bar] = []
    with contextlib.ExitStack() as stack:
        if resume is not None:
            stack.enter_context(report_write_errors("resume", resume))

        def progress(done: int, total: int) -> None:
            if not bars:
                bar = progress_bar(total, description="evaluate", delay=BAR_DELAY)
                bars.append(stack.enter_context(bar))
            bars[0].update(done - seen[0])
            seen[0] = done

        seen = [0]
        yield progress


def chance_of(
    pids: tuple[Any, Any], cameras: tuple[Any, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the figures of a random order.

    Args:
      pids: of query and gallery, as `evaluate` takes them.
      cameras: the same.
      options: of `evaluate`.
    """
    columns = zip(number_pids(*pids), number_cameras(*cameras), strict=True)
    query, gallery = (
        Labels(np.asarray(own), None if seen is None else np.asarray(seen)) for own, seen in columns
    )
    names = ("query_ids", "gallery_ids", "ignore")
    ids = {name: options[name] for name in names if name in options}
    left_out = check_left_out(len(query), len(gallery), **ids)
    protocol = {name: options[name] for name in ("ap", "same_camera")}
    return chance_figures(query, gallery, left_out=left_out, **protocol)


def own_images(pair: LabelledPair, *, same_file: bool) -> dict[str, Any]:
    """Return the arguments of `evaluate` that leave out each query's own image.

    Raises: UserError if the own images cannot be identified.
    """
    if pair.query.paths is not None and pair.gallery.paths is not None:
        return {"query_ids": pair.query.paths, "gallery_ids": pair.gallery.paths}
    if same_file:
        return {"ignore": np.arange(len(pair.query.pids))}
    missing = "QUERY" if pair.query.paths is None else "GALLERY"
    raise UserError(
        f"--leave_out_own needs to know which images are the same: {missing} has no `paths`; add"
        " them, or give one file as QUERY and as GALLERY"
    )


def format_figures(figures: dict[str, Any], protocol: dict[str, str], *, cameras: bool) -> str:
    """Return the table for people, in per cent."""
    head = (
        f"{figures['num_valid_query']} of {figures['num_query']} queries, gallery"
        f" {figures['num_gallery']}, {protocol['metric']}, AP: {figures['ap']}"
    )
    if not cameras:
        head += ", cameras not known: nothing is removed"
    elif protocol["same_camera"] == "keep":
        head += ", same camera kept"
    if "num_left_out" in figures:
        head += f", {figures['num_left_out']} own images left out"
    if "features" in figures:
        head += f", {figures['features']}"
    columns = columns_of(figures)
    names = "".join(f"{name:>9}" for name in columns)
    return "\n".join([head, names, format_row("", figures, columns).rstrip()])


def columns_of(figures: Mapping[str, Any]) -> list[str]:
    """Return the names of the table's columns."""
    return ["mAP", "mINP", *(f"Rank-{rank}" for rank in figures["cmc"])]
