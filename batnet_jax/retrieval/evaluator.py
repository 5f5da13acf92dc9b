"""Arrays in, plain dict out: the standard single-query evaluation of person re-identification."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import ArrayLike

from batnet_jax.errors import UserError
from batnet_jax.retrieval import checks, metrics
from batnet_jax.retrieval.ranks import relevant_ranks
from batnet_jax.retrieval.scores import block_size

# The identity that data sets give to bad detections: neither right nor wrong when found.
JUNK_PID = -1


def evaluate(
    query_features: ArrayLike,
    query_pids: ArrayLike,
    query_cameras: ArrayLike | None,
    gallery_features: ArrayLike,
    gallery_pids: ArrayLike,
    gallery_cameras: ArrayLike | None,
    *,
    metric: str = "cosine",
    ap: str = "precision",
    same_camera: str = "remove",
    cmc_ranks: Sequence[int] = (1, 5, 10, 20),
    block: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Ranks the gallery for every query and measures where the right people stand.

    Gallery items of pid -1 (junk) are dropped before anything else and counted nowhere; every
    other pid, 0 (distractors) included, is an ordinary identity. Equal scores are ordered by
    gallery index, so the result is the same on every run. Scores are float32.

    Args:
      query_features: [q, d] finite floats, not necessarily normalised.
      query_pids: [q] int.
      query_cameras: [q] int. None, here and for the gallery, where cameras are not known; then
        nothing is removed, whatever `same_camera` says.
      gallery_features: [g, d].
      gallery_pids: [g] int.
      gallery_cameras: [g] int or None.
      metric: "cosine" (inner product at unit length; a vector of zeros scores 0) or "euclidean".
      ap: "precision" (mean of the precision at the hits) or "trapezoid" (Market-1501's script).
      same_camera: "remove" leaves out, for each query, the items of its identity seen by its own
        camera (the field's protocol); "keep" lets them count as matches.
      cmc_ranks: ranks at which to read the CMC curve; may exceed the gallery.
      block: queries at a time; memory grows with block x g. None chooses.
      progress: called as progress(queries done, q) after each block.

    Returns: num_query, num_gallery (without junk), num_valid_query (those with a match left; the
      others are skipped), mAP, mINP, cmc {"1": ...}, ap. Fractions.

    Raises:
      UserError: for arrays that do not fit together, values that are not finite, ids that are not
        integers, unknown names, or where no query has a match.
    """
    checks.choice("metric", metric, checks.METRICS)
    checks.choice("ap", ap, checks.AP_CONVENTIONS)
    checks.choice("same_camera", same_camera, checks.SAME_CAMERA)
    cmc_ranks = [checks.positive_int("cmc_ranks", k) for k in cmc_ranks]
    query = checks.images("query", query_features, query_pids, query_cameras, metric)
    gallery = checks.images("gallery", gallery_features, gallery_pids, gallery_cameras, metric)
    checks.same_dimension(query.features, gallery.features)
    if (query.cameras is None) != (gallery.cameras is None):
        raise UserError(
            "cameras were given for only one of query and gallery: give both, or None for both"
        )
    gallery = _without_junk(gallery)
    num_query, num_gallery = len(query.pids), len(gallery.pids)
    block = block_size(num_query, num_gallery) if block is None else block
    ranks = relevant_ranks(
        query,
        gallery,
        same_camera=same_camera,
        metric=metric,
        block=checks.positive_int("block", block),
        progress=progress,
    )
    figures = metrics.summarise(ranks, ap=ap, cmc_ranks=cmc_ranks)
    if figures is None:
        raise UserError(
            f"none of the {num_query} queries has a match among the {num_gallery} gallery items:"
            " at least one needs its identity seen by another camera; check the pids and cameras,"
            " or use same_camera='keep'"
        )
    return {"num_query": num_query, "num_gallery": num_gallery, **figures}


def _without_junk(gallery: checks.Images) -> checks.Images:
    real = gallery.pids != JUNK_PID
    if not real.any():
        raise UserError(
            f"all {len(real)} gallery_pids are {JUNK_PID} (junk): give a gallery with identities"
        )
    return gallery if real.all() else gallery.only(real)
