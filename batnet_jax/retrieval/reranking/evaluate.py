"""The standard evaluation after k-reciprocal re-ranking."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import ArrayLike

from batnet_jax.retrieval.evaluator import Options, record_rounding, summarise_ranks
from batnet_jax.retrieval.image_set import ImageSet, all_junk
from batnet_jax.retrieval.left_out import check_test
from batnet_jax.retrieval.matches import ItemLists, keep_items
from batnet_jax.retrieval.reranking.k_reciprocal import (
    KReciprocal,
    check_settings,
    iterate_distances,
)
from batnet_jax.retrieval.reranking.row_ranks import ranks_of_rows


def evaluate_reranked(
    query_features: ArrayLike,
    query_pids: ArrayLike,
    query_cameras: ArrayLike | None = None,
    gallery_features: Any = None,
    gallery_pids: Any = None,
    gallery_cameras: ArrayLike | None = None,
    *,
    query_ids: ArrayLike | None = None,
    gallery_ids: ArrayLike | None = None,
    ignore: Any = None,
    settings: KReciprocal | None = None,
    metric: str = "cosine",
    ap: str = "precision",
    same_camera: str = "remove",
    cmc_ranks: Sequence[int] = (1, 5, 10, 20),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Re-rank the gallery for every query (see `reranked_rows`), then measure as `evaluate` does.

    Junk is dropped before neighbours are searched. Images of the query's own camera are kept until
    the ranks are counted, as in the published code, which re-ranks without regard to cameras.
    Images that a query leaves out by ids or `ignore` are kept until then, too.

    Args:
      query_features: [q, d]; this and the other arrays as in `evaluate`.
      query_pids: [q] int.
      query_cameras: [q] int or None.
      gallery_features: [g, d].
      gallery_pids: [g] int.
      gallery_cameras: [g] int or None.
      query_ids: see `evaluate`.
      gallery_ids: see `evaluate`.
      ignore: see `evaluate`.
      settings: of the re-ranking; None for the paper's.
      metric: see `reranked_rows`.
      ap: "precision" or "trapezoid".
      same_camera: "remove" or "keep".
      cmc_ranks: ranks at which to read the CMC curve.
      progress: see `reranked_rows`.

    Returns: as `evaluate`.

    Raises: UserError as `evaluate`, and for settings out of range.
    """
    query, gallery, left_out = check_test(
        (query_features, query_pids, query_cameras),
        (gallery_features, gallery_pids, gallery_cameras),
        metric=metric,
        same_camera=same_camera,
        query_ids=query_ids,
        gallery_ids=gallery_ids,
        ignore=ignore,
    )
    return evaluate_reranked_sets(
        query,
        gallery,
        left_out=left_out,
        settings=settings,
        metric=metric,
        ap=ap,
        same_camera=same_camera,
        cmc_ranks=cmc_ranks,
        progress=progress,
    ) | record_rounding((query_features, query.features), (gallery_features, gallery.features))


def evaluate_reranked_sets(
    query: ImageSet,
    gallery: ImageSet,
    *,
    left_out: ItemLists | None = None,
    settings: KReciprocal | None = None,
    metric: str = "cosine",
    ap: str = "precision",
    same_camera: str = "remove",
    cmc_ranks: Sequence[int] = (1, 5, 10, 20),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Re-rank and measure image sets; see `evaluate_reranked`."""
    options = Options(metric=metric, ap=ap, same_camera=same_camera, cmc_ranks=cmc_ranks)
    settings = check_settings(settings or KReciprocal())
    if left_out is not None:
        left_out = keep_items(left_out, gallery.not_junk, len(gallery))
    kept = gallery.drop_junk()
    if not len(kept):
        raise all_junk(len(gallery))
    rows = iterate_distances(
        query.features, kept.features, settings, metric=metric, progress=progress
    )
    ranks = ranks_of_rows(
        rows, query.labels, kept.labels, same_camera=same_camera, left_out=left_out
    )
    return summarise_ranks(ranks, query.labels, len(kept), options, left_out)
