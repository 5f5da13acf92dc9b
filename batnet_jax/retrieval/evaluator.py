"""The standard single-query evaluation of person re-identification: arrays in, plain dict out."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike

from batnet_jax.errors import UserError
from batnet_jax.retrieval import checks, metrics
from batnet_jax.retrieval.image_set import (
    JUNK_PID,
    ImageSet,
    Labels,
    all_junk,
    check_images,
    check_streamed_images,
    no_match,
)
from batnet_jax.retrieval.label_pairs import number_cameras, number_pids
from batnet_jax.retrieval.left_out import check_left_out, warn_of_same_images
from batnet_jax.retrieval.matches import ItemLists, keep_items
from batnet_jax.retrieval.streaming.kept_counts import KeptCounts, evaluation_key
from batnet_jax.retrieval.streaming.prepare_features import FeatureSource, make_source
from batnet_jax.retrieval.streaming.ranks import relevant_ranks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The settings of an evaluation, checked on creation; `evaluate` describes each."""

    metric: str = "cosine"
    ap: str = "precision"
    same_camera: str = "remove"
    cmc_ranks: Sequence[int] = (1, 5, 10, 20)
    dtype: str = "float32"
    breakdown: bool = False
    per_query: bool = False
    bootstrap: int = 0
    seed: int = 0
    block: int | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        checks.choice("metric", self.metric, checks.METRICS)
        checks.choice("ap", self.ap, checks.AP_CONVENTIONS)
        checks.choice("same_camera", self.same_camera, checks.SAME_CAMERA)
        checks.choice("dtype", self.dtype, checks.DTYPES)
        checks.positive_ints("cmc_ranks", self.cmc_ranks)
        if self.bootstrap:
            checks.positive_int("bootstrap", self.bootstrap)
        for name in ("block", "chunk"):
            if getattr(self, name) is not None:
                checks.positive_int(name, getattr(self, name))


def evaluate(
    query_features: ArrayLike,
    query_pids: ArrayLike,
    query_cameras: ArrayLike | None = None,
    gallery_features: Any = None,
    gallery_pids: Any = None,
    gallery_cameras: ArrayLike | None = None,
    *,
    junk: ArrayLike | None = None,
    query_ids: ArrayLike | None = None,
    gallery_ids: ArrayLike | None = None,
    ignore: Any = None,
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
    resume: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Rank the gallery for every query and measure the ranks of the right images.

    Gallery items of pid -1 (junk) and of the mask `junk` are dropped first and never counted. Every
    other pid is an ordinary identity, also 0 (distractors). Equal scores are ordered by gallery
    index, so each run gives the same result. Scores are float32.

    Memory does not grow with q x g: it holds the features, a second copy of the features whose
    identity some query has, and a tile of scores. `gallery_features` may be a mapped file larger
    than memory (`np.load(path, mmap_mode="r")`), or several files, see `JoinedRows`.

    Args:
      query_features: [q, d] finite floats, not necessarily normalised. float64 is rounded, and the
        result then contains "features": "float64 rounded to float32".
      query_pids: [q] int, or strings in both sets, which are numbered.
      query_cameras: [q] int or strings, None or NaN for an image of an unknown camera; or None if
        the cameras of query and gallery are not known. An unknown camera equals no other camera, so
        nothing is removed, whatever `same_camera` says.
      gallery_features: [g, d].
      gallery_pids: [g].
      gallery_cameras: [g] or None.
      junk: [g] bool, further items to drop; None for none.
      query_ids: [q] ids of the images, integers or strings, for a set that is searched in itself:
        each query leaves out the gallery items of its own id. None: nothing is left out.
      gallery_ids: [g] of the same type.
      ignore: the gallery items that each query leaves out, by index: [q] int, one for each query
        (`np.arange(q)` for a set in itself); [q, n] int; or q lists of integers. -1 stands for no
        item. Or a mask, [q, g] bool. Protocols that compare two cameras, or
        people who have changed their clothes, use it.
      metric: "cosine" (inner product at unit length; a vector of zeros scores 0) or "euclidean".
      ap: "precision" (mean of the precision at the hits) or "trapezoid" (Market-1501's script).
      same_camera: "remove" leaves out, for each query, the items of its identity seen by its own
        camera (the field's protocol); "keep" counts them as matches.
      cmc_ranks: ranks at which to read the CMC curve; may exceed the gallery.
      dtype: "bfloat16" rounds the features to it, which changes ranks; the result then contains
        "features": "bfloat16".
      breakdown: also return the figures of each camera's and each identity's queries.
      per_query: also return the figures of each query.
      bootstrap: samples for confidence intervals, in which identities are drawn; 0 for none.
      seed: of the bootstrap.
      block: queries at a time on a device. None chooses.
      chunk: gallery items at a time. None chooses.
      progress: called as progress(gallery items seen, g) after each chunk.
      resume: an .npz that is written every half minute and removed at the end. If the file exists,
        the evaluation that wrote it continues, with the same figures. For one process. None: no
        file.

    Returns: num_query, num_gallery (without junk), num_valid_query (queries with a match; the
      others are skipped), mAP, mINP, cmc {"1": ...}, ap; with ids or `ignore` num_left_out (pairs
      of a query and an item, without junk). Figures are fractions. On request
      per_camera and per_identity (see `metrics.breakdown`), per_query (see `metrics.PerQuery`: as
      lists; 0 or None for a query without a match), and confidence (see `metrics.bootstrap`).

    Raises:
      UserError: for arrays that do not fit together, values that are not finite, ids that are not
        integers, unknown names, or if no query has a match.

    Warns: SameImageWarning if a query has the features of an image that counts as its match.
    """
    options = Options(
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
    )
    if gallery_features is None:
        raise UserError("no gallery_features are given: give query and gallery")
    pids = number_pids(query_pids, gallery_pids)
    cameras = number_cameras(query_cameras, gallery_cameras)
    gallery = check_streamed_images("gallery", gallery_features, pids[1], cameras[1], metric)
    source = make_source(gallery.features, metric)  # first: an upload runs during the checks
    query = check_images("query", query_features, pids[0], cameras[0], metric)
    checks.same_dimension(query.features.shape[1], gallery.features.shape[1])
    left_out = check_left_out(
        len(query), len(gallery), query_ids=query_ids, gallery_ids=gallery_ids, ignore=ignore
    )
    counts = None
    if resume is not None:
        if jax.process_count() > 1:
            raise UserError("resume= is for an evaluation in one process: leave it out")
        key = evaluation_key(query, gallery, options, junk, left_out)
        counts = KeptCounts(Path(resume), key)
    try:
        result = evaluate_stream(
            query,
            gallery.labels,
            source,
            options,
            junk=junk,
            left_out=left_out,
            progress=progress,
            counts=counts,
        )
    except checks.NotFiniteFeaturesError:  # names rows of a chunk; name them in the gallery
        checks.features("gallery_features", gallery.features, metric)
        raise
    if junk is not None:
        gallery = gallery.mark_junk(np.asarray(junk))
    warn_of_same_images(query, gallery, left_out, same_camera)
    return result | record_rounding(
        (query_features, query.features), (gallery_features, gallery.features)
    )


def record_rounding(*pairs: tuple[Any, np.ndarray]) -> dict[str, str]:
    """Return the entry of a result that says which type was rounded; empty if nothing was.

    Args:
      pairs: features as given, and as checked.
    """
    types = [checks.rounded_type(*pair) for pair in pairs]
    found = " and ".join(dict.fromkeys(name for name in types if name))
    return {"features": f"{found} rounded to float32"} if found else {}


def evaluate_sets(
    query: ImageSet,
    gallery: ImageSet,
    options: Options,
    *,
    left_out: ItemLists | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate image sets; see `evaluate`, and `check_left_out` for `left_out`."""
    source = make_source(gallery.features, options.metric)
    return evaluate_stream(
        query, gallery.labels, source, options, left_out=left_out, progress=progress
    )


def evaluate_stream(
    query: ImageSet,
    gallery: Labels,
    source: FeatureSource,
    options: Options,
    *,
    junk: ArrayLike | None = None,
    left_out: ItemLists | None = None,
    progress: Callable[[int, int], None] | None = None,
    counts: KeptCounts | None = None,
) -> dict[str, Any]:
    """Evaluate a gallery whose features are computed, or read, during the evaluation.

    Args:
      query: q images.
      gallery: the labels of g images.
      source: see `FeatureSource`. While it works, the devices count the items it returned before.
      options: see `evaluate`.
      junk: [g] bool, or None.
      left_out: see `check_left_out`.
      progress: called as progress(gallery items seen, g) after each chunk.
      counts: see `relevant_ranks`.

    Returns: see `evaluate`.

    Raises: UserError as `evaluate`.
    """
    if (query.cameras is None) != (gallery.cameras is None):
        raise UserError(
            "cameras were given for only one of query and gallery: give both, or None for both"
        )
    is_junk = checks.mask("junk", junk, len(gallery)) | (gallery.pids == JUNK_PID)
    kept = np.flatnonzero(~is_junk)
    if not len(kept):
        raise all_junk(len(gallery))
    if left_out is not None:
        left_out = keep_items(left_out, kept, len(gallery))
    ranks = relevant_ranks(
        query,
        gallery.take(kept),
        lambda rows: source(kept[rows]),
        same_camera=options.same_camera,
        metric=options.metric,
        left_out=left_out,
        dtype=options.dtype,
        block=options.block,
        chunk=options.chunk,
        progress=progress,
        counts=counts,
    )
    return summarise_ranks(ranks, query.labels, len(kept), options, left_out)


def summarise_ranks(
    ranks: metrics.Ranks,
    query: Labels,
    num_gallery: int,
    options: Options,
    left_out: ItemLists | None = None,
) -> dict[str, Any]:
    """Return the figures of ranks in a gallery of `num_gallery` items; see `evaluate`.

    Raises: UserError if no query has a match.
    """
    figures = metrics.per_query(ranks, options.ap)
    summary = metrics.summarise(figures, ap=options.ap, cmc_ranks=options.cmc_ranks)
    if summary is None:
        raise no_match(len(query), num_gallery)
    result = {"num_query": len(query), "num_gallery": num_gallery, **summary}
    if left_out is not None:
        result["num_left_out"] = len(left_out.items)
    if options.dtype != "float32":
        result["features"] = options.dtype
    if options.breakdown:
        if query.cameras is not None:
            result["per_camera"] = metrics.breakdown(figures, query.cameras, options.cmc_ranks)
        result["per_identity"] = metrics.breakdown(figures, query.pids, options.cmc_ranks)
    if options.per_query:
        result["per_query"] = metrics.listed(figures)
    if options.bootstrap:
        result["confidence"] = metrics.bootstrap(
            figures,
            query.pids,
            cmc_ranks=options.cmc_ranks,
            samples=options.bootstrap,
            seed=options.seed,
        )
    return result
