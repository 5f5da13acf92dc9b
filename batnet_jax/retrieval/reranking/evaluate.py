"""The standard evaluation, of the order that k-reciprocal re-ranking makes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from batnet_jax.retrieval import checks, metrics
from batnet_jax.retrieval.checks import Images
from batnet_jax.retrieval.evaluator import JUNK_PID
from batnet_jax.retrieval.mapped_rows import read_rows
from batnet_jax.retrieval.reranking.k_reciprocal import KReciprocal, reranked_rows
from batnet_jax.retrieval.reranking.row_ranks import ranks_of_rows


def evaluate_reranked(
    query_features: ArrayLike,
    query_pids: ArrayLike,
    query_cameras: ArrayLike | None,
    gallery_features: ArrayLike,
    gallery_pids: ArrayLike,
    gallery_cameras: ArrayLike | None,
    *,
    settings: KReciprocal | None = None,
    metric: str = "cosine",
    ap: str = "precision",
    same_camera: str = "remove",
    cmc_ranks: Sequence[int] = (1, 5, 10, 20),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """`evaluate`, after k-reciprocal re-ranking (see `rerank.reranked_rows`).

    Junk is left out before neighbours are looked for. Images of the query's own camera are not:
    the re-ranking sees no camera (published code).

    Args:
      query_features: this and the other arrays and names as in `evaluate`.
      query_pids: [q] int.
      query_cameras: [q] int or None.
      gallery_features: [g, d].
      gallery_pids: [g] int.
      gallery_cameras: [g] int or None.
      settings: None for the paper's.
      metric: see `reranked_rows`.
      ap: "precision" or "trapezoid".
      same_camera: "remove" or "keep".
      cmc_ranks: ranks at which to read the CMC curve.
      progress: see `reranked_rows`.
    Returns: as `evaluate`.
    Raises: UserError as `evaluate`, and for settings out of range.
    """
    checks.choice("ap", ap, checks.AP_CONVENTIONS)
    checks.choice("metric", metric, checks.METRICS)
    checks.choice("same_camera", same_camera, checks.SAME_CAMERA)
    cmc_ranks = [checks.positive_int("cmc_ranks", k) for k in cmc_ranks]
    query = checks.images("query", query_features, query_pids, query_cameras, metric)
    gallery = checks.images("gallery", gallery_features, gallery_pids, gallery_cameras, metric)
    real = np.flatnonzero(gallery.pids != JUNK_PID)
    cameras = None if gallery.cameras is None else gallery.cameras[real]
    kept = Images(read_rows(gallery.features, real), gallery.pids[real], cameras)
    rows = reranked_rows(
        query.features, kept.features, settings or KReciprocal(), metric=metric, progress=progress
    )
    ranks = ranks_of_rows(rows, query, kept, same_camera=same_camera)
    summary = metrics.summarise(metrics.per_query(ranks, ap), ap=ap, cmc_ranks=cmc_ranks)
    if summary is None:
        raise checks.no_match(len(query.pids), len(real))
    return {"num_query": len(query.pids), "num_gallery": len(real), **summary}
