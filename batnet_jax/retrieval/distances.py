"""The standard evaluation of a distance matrix, as other frameworks hold it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from batnet_jax.errors import UserError
from batnet_jax.retrieval.checks import as_array
from batnet_jax.retrieval.evaluator import Options, summarise_ranks
from batnet_jax.retrieval.image_set import JUNK_PID, all_junk, check_labels
from batnet_jax.retrieval.label_pairs import number_cameras, number_pids
from batnet_jax.retrieval.left_out import check_left_out
from batnet_jax.retrieval.matches import keep_items
from batnet_jax.retrieval.reranking.row_ranks import ranks_of_rows

_ROWS_AT_ONCE = 64


def evaluate_distances(
    distances: ArrayLike,
    query_pids: ArrayLike,
    query_cameras: ArrayLike | None,
    gallery_pids: ArrayLike,
    gallery_cameras: ArrayLike | None,
    *,
    query_ids: ArrayLike | None = None,
    gallery_ids: ArrayLike | None = None,
    ignore: Any = None,
    ap: str = "precision",
    same_camera: str = "remove",
    cmc_ranks: Sequence[int] = (1, 5, 10, 20),
    breakdown: bool = False,
    per_query: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Rank the gallery by given distances and measure as `evaluate` does.

    The distances are compared in their own type. Equal distances are ordered by gallery index.

    Args:
      distances: [q, g] finite numbers, a smaller one is nearer; may be a mapped file. Give
        similarities times -1.
      query_pids: [q]; this and the other arguments as in `evaluate`.
      query_cameras: [q] or None.
      gallery_pids: [g]; -1 (junk) is dropped.
      gallery_cameras: [g] or None.
      query_ids: see `evaluate`.
      gallery_ids: see `evaluate`.
      ignore: see `evaluate`.
      ap: "precision" or "trapezoid".
      same_camera: "remove" or "keep".
      cmc_ranks: ranks at which to read the CMC curve.
      breakdown: also return the figures of each camera's and each identity's queries.
      per_query: also return the figures of each query.
      bootstrap: samples for confidence intervals; 0 for none.
      seed: of the bootstrap.
      progress: called as progress(queries done, q) after each block.

    Returns: as `evaluate`.

    Raises: UserError as `evaluate`, and for distances that are not [q, g] or not finite.
    """
    options = Options(
        ap=ap,
        same_camera=same_camera,
        cmc_ranks=cmc_ranks,
        breakdown=breakdown,
        per_query=per_query,
        bootstrap=bootstrap,
        seed=seed,
    )
    matrix = as_array("distances", distances)
    if matrix.ndim != 2 or 0 in matrix.shape or matrix.dtype.kind not in "fiu":
        raise UserError(
            f"distances have shape {matrix.shape} and dtype {matrix.dtype}: must be numbers"
            " [queries, gallery images]"
        )
    pids = number_pids(query_pids, gallery_pids)
    cameras = number_cameras(query_cameras, gallery_cameras)
    query = check_labels("query", pids[0], cameras[0], matrix.shape[0])
    gallery = check_labels("gallery", pids[1], cameras[1], matrix.shape[1])
    if (query.cameras is None) != (gallery.cameras is None):
        raise UserError(
            "cameras were given for only one of query and gallery: give both, or None for both"
        )
    left_out = check_left_out(
        len(query), len(gallery), query_ids=query_ids, gallery_ids=gallery_ids, ignore=ignore
    )
    kept = np.flatnonzero(gallery.pids != JUNK_PID)
    if not len(kept):
        raise all_junk(len(gallery))
    if left_out is not None:
        left_out = keep_items(left_out, kept, len(gallery))
    ranks = ranks_of_rows(
        _iterate_rows(matrix, kept),
        query,
        gallery.take(kept),
        same_camera=same_camera,
        left_out=left_out,
        progress=progress,
    )
    return summarise_ranks(ranks, query, len(kept), options, left_out)


def _iterate_rows(matrix: np.ndarray, kept: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (slice of queries, their distances to the kept items).

    Raises: UserError if a distance is not finite.
    """
    for start in range(0, len(matrix), _ROWS_AT_ONCE):
        which = slice(start, min(start + _ROWS_AT_ONCE, len(matrix)))
        rows = np.asarray(matrix[which])[:, kept]
        if rows.dtype.kind != "f":  # a removed item gets the distance infinity
            rows = rows.astype(np.float64)
        if not np.isfinite(rows).all():
            row, _ = np.argwhere(~np.isfinite(rows))[0]
            raise UserError(
                f"distances hold NaN or infinite values, first in row {start + row}: all must be"
                " finite; to leave items out, use ignore="
            )
        yield which, rows
