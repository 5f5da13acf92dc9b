"""The mode `search`: rank a gallery for query images; write the gallery as an index for faiss."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from batnet_jax.data.loading.user_images import list_files
from batnet_jax.errors import UserError, printable
from batnet_jax.inference import feature_file, index_file
from batnet_jax.inference.feature_file import FeatureFile
from batnet_jax.inference.gallery import Rows, is_gallery
from batnet_jax.inference.joined_galleries import split_paths
from batnet_jax.inference.lance_gallery import LanceRows
from batnet_jax.inference.near_index import SAMPLE, TOP, NearIndex
from batnet_jax.inference.own_files import find_own_files
from batnet_jax.inference.search import Searcher
from batnet_jax.modes.accept import Wanted, parse_accept, threshold
from batnet_jax.modes.flags import report_write_errors
from batnet_jax.modes.ranked_files import check_suffix, to_bytes
from batnet_jax.retrieval import ItemLists
from batnet_jax.runtime.atomic_write import write_atomically


def run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    gallery: Path,
    query: Path | None,
    top: int,
    output: Path | None,
    faiss: Path | None,
    index: str = "auto",
    keep_own: bool = False,
    pool: str = "none",
    accept: str | None = None,
    where: str | None = None,
) -> None:
    """Print a ranked list for each query image; write the lists, and an index for faiss, if asked.

    Args:
      config: see `loading.load_with_config`.
      workdir: a workdir or a checkpoint.
      gallery: see `Searcher`; several with commas between them, see `split_paths`.
      query: see `list_files`; None to write an index only.
      top: length of a list.
      output: the file of lists to write; see `ranked_files`.
      faiss: the index to write.
      index: its kind, see `index_file.choose_kind`.
      keep_own: list a gallery image that is the query's own file, too.
      pool: "none", or "mean" or "max" to make one query of all images of `query`.
      accept: see `accept.parse_accept`; None to list hits of any score.
      where: search the gallery images that pass this filter, see `inference.where`; None for all.

    Raises: UserError if something is missing or does not fit.
    """
    wanted = None if accept is None else parse_accept(accept)
    if query is None and (faiss is None or output is not None):
        raise UserError("--mode=search needs --query (or --faiss alone, to write an index)")
    if output is not None:
        check_suffix(output)
    queries = [] if query is None else list_files(query)
    if faiss is not None:
        index_file.import_faiss("--faiss")  # fails before the work if faiss is missing
    galleries = split_paths(str(gallery))
    # If the gallery's features are given, a batch needs room for the queries only.
    given = all(map(is_gallery, galleries))
    few = min(len(queries), config.eval.batch) if given else 0
    searcher = Searcher(config, workdir, galleries, batch=few)
    rows = searcher.find_rows(where)
    shown = []  # files are written before anything is printed: nobody may read it
    if queries:
        lowest = None if wanted is None else _threshold(wanted, workdir, searcher, rows)
        if wanted is not None and wanted.score is None and pool != "none" and len(queries) > 1:
            line = (
                "warning: --accept: the rate was measured for queries of one image; a query of "
                f"{len(queries)} images accepts other people at another rate"
            )
            print(line, file=sys.stderr)
        options = {"keep_own": keep_own, "pool": pool, "rows": rows}
        lists = rank_queries(searcher, queries, top, name=str(query), **options)
        if lowest is not None:
            lists = [keep_accepted(one, lowest) for one in lists]
        shown += [format_list(one, lowest) for one in lists]
        if output is not None:
            source = {"gallery": str(gallery), "model": str(workdir), "step": searcher.model.step}
            source |= {} if lowest is None else {"accept": lowest}
            source |= {} if where is None else {"where": where}
            with report_write_errors("output", output):
                write_atomically(output, to_bytes(output, source, lists))
            shown += [f"written: {printable(str(output))}"]
    if faiss is not None:
        shown += [write_index(faiss, searcher.gallery, index)]
    print("\n".join(shown))


def _threshold(wanted: Wanted, workdir: Path, searcher: Searcher, rows: Rows) -> float:
    """Return the lowest score to accept; see `accept.threshold`."""
    return threshold(wanted, workdir, searcher.model.step, searcher.count(rows))


def rank_queries(
    searcher: Searcher,
    queries: Sequence[str],
    top: int,
    *,
    keep_own: bool,
    pool: str,
    name: str,
    rows: Rows = None,
) -> list[dict[str, Any]]:
    """Return a ranked list for each query: `query`, its name, and `hits`, see `hits`.

    Args:
      searcher: the gallery and the model.
      queries: paths of images.
      top: length of a list.
      keep_own: list a gallery image that is the query's own file, too.
      pool: "none", or how all images become one query: "mean" or "max" of their features. The list
        then also has `pooled`, the number of images.
      name: of the pooled query.
      rows: the gallery images to search; None for all.
    """
    features = searcher.embed(queries)
    own = None if keep_own else find_own_files(queries, searcher.gallery.paths)
    if pool != "none":
        features = features.mean(0, keepdims=True) if pool == "mean" else features.max(0)[None]
        if own is not None:  # leave out the own files of all images
            items = np.unique(own.items)
            own = ItemLists(items, np.array([0, len(items)]))
    found = searcher.search_lists(features, top, own, rows)
    if pool != "none":
        return [{"query": name, "pooled": len(queries), "hits": hits(searcher, *found[0])}]
    return [
        {"query": query, "hits": hits(searcher, *own_found)}
        for query, own_found in zip(queries, found, strict=True)
    ]


def keep_accepted(one: dict[str, Any], lowest: float) -> dict[str, Any]:
    """Leave out the hits below a score; add `accepted`, the number that is left, and `best`."""
    kept = [hit for hit in one["hits"] if hit["score"] >= lowest]
    best = one["hits"][0]["score"] if one["hits"] else None
    return {**one, "accepted": len(kept), "best": best, "hits": kept}


def hits(searcher: Searcher, indices: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    """Return a ranked list: for each hit `rank` from 1, `score` (cosine), `index`, `path`.

    If the run knows people by name, each hit has `name`, too: None for a person it does not know.
    A hit in one of several galleries has `gallery` and `row`, the image's row in that gallery;
    `index` then counts the images of all galleries. If the gallery has columns, each hit has
    `columns`, the image's values by name; see `plain_rows`.

    Args:
      searcher: its gallery names the paths.
      indices: [k] gallery images, best first.
      scores: [k] float32.
    """
    found = [
        {"rank": rank, "score": float(score), "index": int(i), "path": searcher.name(i)}
        for rank, (i, score) in enumerate(zip(indices, scores, strict=True), 1)
    ]
    if searcher.names:
        for hit in found:
            hit["name"] = searcher.person(hit["index"])
    if searcher.places:
        for hit in found:
            hit["gallery"], hit["row"] = searcher.places.find(hit["index"])
    for hit, columns in zip(found, searcher.columns(indices), strict=False):
        hit["columns"] = columns
    return found


def format_list(one: dict[str, Any], lowest: float | None = None) -> str:
    """Return a ranked list as text: the query, then a row of rank, cosine and path for each hit.

    Args:
      one: see `rank_queries` and `keep_accepted`.
      lowest: the score below which hits were left out; None if none were.
    """
    head = one["query"]
    if "pooled" in one:
        head += f" ({one['pooled']} images as one query)"
    width = max((len(hit.get("name") or "") for hit in one["hits"]), default=0)
    lines = []
    for hit in one["hits"]:
        name = f"{printable(hit.get('name') or '-'):{width}}  " if width else ""
        where = f"  ({hit['gallery']})" if "gallery" in hit else ""
        lines.append(f"{hit['rank']:5}  {hit['score']:7.4f}  {name}{hit['path']}{where}")
    if lowest is not None and not lines:
        best = (
            "no image is left to search"
            if one["best"] is None
            else f"the best scores {one['best']:.4f}"
        )
        lines = [f"    -  no image is similar enough: {best}, and {lowest:.4f} is needed"]
    return "\n".join(map(printable, [head, *lines]))


def write_index(path: Path, gallery: FeatureFile, kind: str = "auto") -> str:
    """Write the index of `--faiss`, and return a line that describes it.

    Args:
      path: the file.
      gallery: features, and paths for the names of the index.
      kind: see `index_file.choose_kind`.

    Raises: UserError if the file cannot be written, the kind needs more images, or the gallery is
      an approximate index.
    """
    features = gallery.features
    if isinstance(features, LanceRows):
        raise UserError("--faiss needs the features that embed wrote, not a database of them")
    if isinstance(features, NearIndex):
        raise UserError(
            "--faiss needs the features that embed wrote: an index of kind "
            f"{features.kind} holds them rounded"
        )
    count, dim = features.shape
    kind = index_file.choose_kind(kind, count, "--index")
    what = {"user": "--faiss", "paths": gallery.paths, "kind": kind}
    start = time.perf_counter()
    with report_write_errors("faiss", path):
        mark = feature_file.mark(gallery.fingerprint)
        written = index_file.write_index(path, features, mark, **what)
    name = {"flat": "IndexFlatIP", "hnsw": "HNSW", "ivfpq": "IVF-PQ"}[kind]
    line = f"written: {path}, {name} of {count} vectors of unit length, {dim} dimensions"
    if written.recall is not None:
        line += (
            f"; recall@{TOP} {written.recall:.3f} on {min(SAMPLE, count)} gallery images"
            f" ({time.perf_counter() - start:.0f} s)"
        )
    return printable(line)
