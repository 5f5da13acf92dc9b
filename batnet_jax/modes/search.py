"""The mode `search`: the gallery's images that are most like each query; an index for faiss."""

import json
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from batnet_jax.data.loading.user_images import list_files
from batnet_jax.errors import UserError
from batnet_jax.inference import feature_file
from batnet_jax.inference.search import Searcher
from batnet_jax.retrieval.mapped_rows import read_rows
from batnet_jax.retrieval.scores import unit_length

ROWS_AT_ONCE = 2**14


def run_search(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    gallery: Path,
    query: Path | None,
    top: int,
    output: Path | None,
    index: Path | None,
) -> None:
    """Prints a ranked list for each query image; writes it, and an index for faiss, if wanted.

    Args:
      config: see `model.load_with_config`.
      workdir: a workdir or a checkpoint.
      gallery: see `Searcher`.
      query: see `list_files`; None where only the index is wanted.
      top: places of a list.
      output: the .json to write.
      index: the file for faiss to write.

    Raises: UserError for whatever is missing or does not fit.
    """
    if query is None and (index is None or output is not None):
        raise UserError("--mode=search needs --query (or --faiss alone, to write an index)")
    queries = [] if query is None else list_files(query)
    if index is not None:
        import_faiss()  # before the work
    # Where only the queries are embedded, a batch need not have room for more.
    few = min(len(queries), config.eval.batch) if feature_file.is_feature_file(gallery) else 0
    searcher = Searcher(config, workdir, gallery, batch=few)
    if queries:
        indices, scores = searcher.search(queries, top)
        lists = [
            {"query": name, "hits": hits(searcher, own, ones)}
            for name, own, ones in zip(queries, indices, scores, strict=True)
        ]
        print("\n".join(format_list(one) for one in lists))
        if output is not None:
            facts = {"gallery": str(gallery), "model": str(workdir), "step": searcher.model.step}
            with feature_file.replacing(output, "output") as partial:
                partial.write_text(json.dumps({**facts, "results": lists}, indent=1) + "\n")
            print(f"written: {output}")
    if index is not None:
        write_index(index, searcher.gallery.features)
        count, dim = searcher.gallery.features.shape
        print(f"written: {index}, IndexFlatIP of {count} vectors of unit length, {dim} dimensions")


def hits(searcher: Searcher, indices: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    """A ranked list: `rank` from 1, `score` (the cosine), `index` in the gallery, `path`.

    Args:
      searcher: has the gallery.
      indices: [k] of its images, best first.
      scores: [k] float32.
    """
    return [
        {"rank": rank, "score": float(score), "index": int(i), "path": searcher.name(i)}
        for rank, (i, score) in enumerate(zip(indices, scores, strict=True), 1)
    ]


def format_list(one: dict[str, Any]) -> str:
    """A query's ranked list for people: rank, cosine, path."""
    rows = [f"{hit['rank']:5}  {hit['score']:7.4f}  {hit['path']}" for hit in one["hits"]]
    return "\n".join([one["query"], *rows])


def import_faiss() -> Any:
    """The library.

    Raises: UserError if it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "--faiss needs faiss, which is not installed: pip install 'batnet-jax[faiss]'"
        ) from error
    return faiss


def write_index(path: Path, features: np.ndarray) -> None:
    """Writes an exact index of inner products that faiss can open.

    Its vectors are the features brought to unit length as a whole, so for queries brought to unit
    length, too, faiss's inner products are our cosines. It is made in memory.

    Args:
      path: the file.
      features: [n, d]; may be mapped.

    Raises: UserError if it cannot be written.
    """
    faiss = import_faiss()
    index = faiss.IndexFlatIP(features.shape[1])
    for start in range(0, len(features), ROWS_AT_ONCE):
        index.add(unit_length(read_rows(features, slice(start, start + ROWS_AT_ONCE))))
    with feature_file.replacing(path, "faiss") as partial:
        faiss.write_index(index, str(partial))
