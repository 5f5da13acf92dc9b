"""Arrays in, plain dict out: the standard single-query evaluation of person re-identification."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from batnet_jax.errors import UserError
from batnet_jax.retrieval import checks, metrics
from batnet_jax.retrieval.checks import Labels
from batnet_jax.retrieval.mapped_rows import view_rows
from batnet_jax.retrieval.streaming.prepare_features import FeatureSource, make_take
from batnet_jax.retrieval.streaming.ranks import relevant_ranks

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
    junk: ArrayLike | None = None,
    metric: str = "cosine",
    ap: str = "precision",
    same_camera: str = "remove",
    cmc_ranks: Sequence[int] = (1, 5, 10, 20),
    dtype: str = "float32",
    breakdown: bool = False,
    per_query: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
    block: int | None = None,
    chunk: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Ranks the gallery for every query and measures where the right people stand.

    Gallery items of pid -1 (junk), and those of the mask `junk`, are dropped before anything else
    and counted nowhere; every other pid, 0 (distractors) included, is an ordinary identity. Equal
    scores are ordered by gallery index, so the result is the same on every run. Scores are float32.

    Args:
      query_features: [q, d] finite floats, not necessarily normalised.
      query_pids: [q] int.
      query_cameras: [q] int. None, here and for the gallery, where cameras are not known; then
        nothing is removed, whatever `same_camera` says.
      gallery_features: [g, d].
      gallery_pids: [g] int.
      gallery_cameras: [g] int or None.
      junk: [g] bool, further items to drop; None for none.
      metric: "cosine" (inner product at unit length; a vector of zeros scores 0) or "euclidean".
      ap: "precision" (mean of the precision at the hits) or "trapezoid" (Market-1501's script).
      same_camera: "remove" leaves out, for each query, the items of its identity seen by its own
        camera (the field's protocol); "keep" lets them count as matches.
      cmc_ranks: ranks at which to read the CMC curve; may exceed the gallery.
      dtype: "bfloat16" rounds the features to it, which changes ranks; the result then says so
        under "features".
      breakdown: also give the figures of the queries of each camera and of each identity.
      per_query: also give those of each query.
      bootstrap: samples for confidence intervals, in which identities are drawn; 0 for none.
      seed: of the bootstrap.
      block: queries at a time on a device. None chooses.
      chunk: gallery items at a time. None chooses.
      progress: called as progress(gallery items seen, g) after each chunk.

    Memory does not grow with q x g: the features, once more those of the identities that are
    asked for, and a tile. `gallery_features` may be a mapped file larger than memory
    (`np.load(path, mmap_mode="r")`).

    Returns: num_query, num_gallery (without junk), num_valid_query (those with a match left; the
      others are skipped), mAP, mINP, cmc {"1": ...}, ap. Fractions. On request per_camera and
      per_identity (see `metrics.breakdown`), per_query (see `metrics.PerQuery`: lists, 0 or None
      where no match is left), and confidence (see `metrics.bootstrap`).

    Raises:
      UserError: for arrays that do not fit together, values that are not finite, ids that are not
        integers, unknown names, or where no query has a match.
    """
    checks.choice("metric", metric, checks.METRICS)
    query = checks.features_later("query_features", query_features, metric)
    gallery = checks.features_later("gallery_features", gallery_features, metric)
    checks.same_dimension(query, gallery)
    checks.ids("gallery_pids", gallery_pids, len(gallery))
    evaluate_it = functools.partial(
        evaluate_stream,
        query,
        (query_pids, query_cameras),
        make_take(gallery, metric),
        (gallery_pids, gallery_cameras),
        junk=junk,
        metric=metric,
        ap=ap,
        same_camera=same_camera,
        cmc_ranks=cmc_ranks,
        dtype=dtype,
        breakdown=breakdown,
        per_query=per_query,
        bootstrap=bootstrap,
        seed=seed,
        block=block,
        chunk=chunk,
        progress=progress,
    )
    try:
        return evaluate_it()
    except checks.NotFiniteFeaturesError:  # found in a chunk: name the rows of the whole
        checks.features("gallery_features", gallery, metric)
        raise


def evaluate_stream(  # noqa: D417 - the others are those of `evaluate`
    query_features: ArrayLike,
    query: tuple[ArrayLike, ArrayLike | None],
    take: FeatureSource,
    gallery: tuple[ArrayLike, ArrayLike | None],
    *,
    junk: ArrayLike | None = None,
    metric: str = "cosine",
    ap: str = "precision",
    same_camera: str = "remove",
    cmc_ranks: Sequence[int] = (1, 5, 10, 20),
    dtype: str = "float32",
    breakdown: bool = False,
    per_query: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
    block: int | None = None,
    chunk: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """`evaluate` for gallery features that are made, or read, while those before are counted.

    Args:
      query_features: [q, d].
      query: pids [q] and cameras, [q] or None.
      take: gives the features of the gallery items that it is asked for; see `ready.Take`. While it
        works, accelerators count those that it gave before.
      gallery: pids [g] and cameras.
    """
    checks.choice("metric", metric, checks.METRICS)
    checks.choice("ap", ap, checks.AP_CONVENTIONS)
    checks.choice("same_camera", same_camera, checks.SAME_CAMERA)
    checks.choice("dtype", dtype, checks.DTYPES)
    cmc_ranks = [checks.positive_int("cmc_ranks", k) for k in cmc_ranks]
    features = checks.features("query_features", query_features, metric)
    who = checks.labels("query", *query, len(features))
    whom = checks.labels("gallery", *gallery, np.size(gallery[0]))
    if (who.cameras is None) != (whom.cameras is None):
        raise UserError(
            "cameras were given for only one of query and gallery: give both, or None for both"
        )
    real, whom = _without_junk(whom, checks.mask("junk", junk, len(whom.pids)))
    ranks = relevant_ranks(
        view_rows(features, slice(None)),
        who,
        whom,
        lambda rows: checks.taken(take(real[rows]), features.shape[1], metric),
        same_camera=same_camera,
        metric=metric,
        dtype=dtype,
        block=None if block is None else checks.positive_int("block", block),
        chunk=None if chunk is None else checks.positive_int("chunk", chunk),
        progress=progress,
    )
    figures = metrics.per_query(ranks, ap)
    summary = metrics.summarise(figures, ap=ap, cmc_ranks=cmc_ranks)
    if summary is None:
        raise checks.no_match(len(features), len(real))
    result = {"num_query": len(features), "num_gallery": len(real), **summary}
    if dtype != "float32":
        result["features"] = dtype
    if breakdown:
        if who.cameras is not None:
            result["per_camera"] = metrics.breakdown(figures, who.cameras, cmc_ranks)
        result["per_identity"] = metrics.breakdown(figures, who.pids, cmc_ranks)
    if per_query:
        result["per_query"] = metrics.listed(figures)
    if bootstrap:
        samples = checks.positive_int("bootstrap", bootstrap)
        result["confidence"] = metrics.bootstrap(
            figures, who.pids, cmc_ranks=cmc_ranks, samples=samples, seed=seed
        )
    return result


def _without_junk(gallery: Labels, junk: np.ndarray) -> tuple[np.ndarray, Labels]:
    """The places of the items that are not junk, and their labels."""
    real = np.flatnonzero((gallery.pids != JUNK_PID) & ~junk)
    if not len(real):
        raise UserError(
            f"all {len(gallery.pids)} gallery items are junk, by gallery_pids of {JUNK_PID} or by "
            "the mask: give a gallery with identities"
        )
    cameras = None if gallery.cameras is None else gallery.cameras[real]
    return real, Labels(gallery.pids[real], cameras)
