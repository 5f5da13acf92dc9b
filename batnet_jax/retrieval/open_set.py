"""Open-set identification: whether a query's person is in the gallery at all, and who it is.

A query that has mates in the gallery, images of its identity, should be identified; one that has
none should raise no alarm. The detection and identification rate at rank k and threshold t is the
share of the queries with mates whose best mate is among the first k and scores at least t. The
false alarm rate is the share of the queries without mates for which any gallery image scores at
least t (Phillips, Grother and Micheals, "Evaluation Methods in Face Recognition", in Handbook of
Face Recognition, 2005; ISO/IEC 19795-1 calls 1 minus the two rates the false-negative
identification rate, and the latter the false-positive identification rate).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from batnet_jax.errors import UserError
from batnet_jax.retrieval import checks
from batnet_jax.retrieval.evaluator import record_rounding
from batnet_jax.retrieval.image_set import ImageSet
from batnet_jax.retrieval.left_out import check_test
from batnet_jax.retrieval.mapped_rows import read_rows
from batnet_jax.retrieval.matches import ItemLists, find_matches, keep_items, match_keys
from batnet_jax.retrieval.scores import block_size, iterate_scores, minus_distances

RATES = (1e-1, 1e-2, 1e-3)
RANKS = (1, 5, 10)
UNMATED = ("auto", "given", "removed")
Progress = Callable[[int, int], None]


def identify(
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
    metric: str = "cosine",
    same_camera: str = "remove",
    unmated: str = "auto",
    false_alarm_rates: Sequence[float] = RATES,
    ranks: Sequence[int] = RANKS,
    block: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure how well a threshold separates known from unknown people, and identifies known ones.

    Args:
      query_features: [q, d]; this and the other arrays as in `evaluate`.
      query_pids: [q] int.
      query_cameras: [q] int or None.
      gallery_features: [g, d].
      gallery_pids: [g] int; -1 (junk) is dropped.
      gallery_cameras: [g] int or None.
      query_ids: see `evaluate`.
      gallery_ids: see `evaluate`.
      ignore: see `evaluate`.
      metric: "cosine" or "euclidean".
      same_camera: "remove" leaves out gallery images of the query's identity and camera; "keep"
        leaves nothing out.
      unmated: which queries have no mates. "given": those whose identity is not in the gallery.
        "removed": every query that has mates, searched once more among the images of other people.
        "auto": "given" if the gallery lacks the identity of some query, else "removed".
      false_alarm_rates: the shares of queries without mates that may raise an alarm.
      ranks: the k of the rates.
      block: queries at a time; memory grows with block x g. None chooses.
      progress: called as progress(queries done, q) after each block.

    Returns: `num_mated`, `num_unmated`, `num_gallery`; `unmated`, "given" or "removed"; and
      `operating_points`: for each wanted rate the lowest threshold whose false alarm rate is no
      higher (a cosine, or a distance), the false alarm rate at this threshold, `resolved`: whether
      the queries without mates are enough to measure the rate, and the detection and identification
      rates by rank, `dir`.

    Raises:
      UserError: as `evaluate`; if queries with or without mates are missing; for a rate that is not
        between 0 and 1, or a rank below 1.
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
    return identify_sets(
        query,
        gallery,
        left_out=left_out,
        metric=metric,
        same_camera=same_camera,
        unmated=unmated,
        false_alarm_rates=false_alarm_rates,
        ranks=ranks,
        block=block,
        progress=progress,
    ) | record_rounding((query_features, query.features), (gallery_features, gallery.features))


def identify_sets(
    query: ImageSet,
    gallery: ImageSet,
    *,
    left_out: ItemLists | None = None,
    metric: str = "cosine",
    same_camera: str = "remove",
    unmated: str = "auto",
    false_alarm_rates: Sequence[float] = RATES,
    ranks: Sequence[int] = RANKS,
    block: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure open-set identification of two image sets; see `identify`."""
    checks.choice("same_camera", same_camera, checks.SAME_CAMERA)
    checks.choice("unmated", unmated, UNMATED)
    for rate in false_alarm_rates:
        if not 0 < rate < 1:
            raise UserError(f"false_alarm_rates={rate!r}: each must be between 0 and 1")
    ranks = [checks.positive_int("ranks", rank) for rank in ranks]
    if left_out is not None:
        left_out = keep_items(left_out, gallery.not_junk, len(gallery))
    gallery = gallery.drop_junk()
    keys = match_keys(query.labels, gallery.labels, same_camera)
    matches = find_matches(*keys, left_out)
    has_mates = matches.relevant.counts > 0
    unknown = ~has_mates & (matches.removed.counts == 0)
    if unmated == "auto":
        unmated = "given" if unknown.any() else "removed"
    is_unmated = unknown if unmated == "given" else has_mates
    _check_counts(int(has_mates.sum()), int(is_unmated.sum()), unmated)
    best_mate, first_rank, best_other = _search(
        query, gallery, matches, metric=metric, block=block, progress=progress
    )
    is_unmated &= np.isfinite(best_other)
    if not is_unmated.any():
        raise UserError(
            "the gallery holds no image of another person for the queries without mates: add some"
        )
    return {
        "num_mated": int(has_mates.sum()),
        "num_unmated": int(is_unmated.sum()),
        "num_gallery": len(gallery),
        "unmated": unmated,
        "operating_points": [
            _operating_point(
                rate,
                best_mate[has_mates],
                first_rank[has_mates],
                best_other[is_unmated],
                ranks,
                sign=1 if metric == "cosine" else -1,
            )
            for rate in false_alarm_rates
        ],
    }


def _check_counts(mated: int, unmated: int, kind: str) -> None:
    """Raise UserError unless there are queries with mates and queries without."""
    if not mated:
        raise UserError(
            "no query has a mate in the gallery: give images of the same people in both, seen by"
            " two cameras; check the pids and cameras"
        )
    if not unmated:
        assert kind == "given"
        raise UserError(
            "every query has its identity in the gallery: give queries of other people, or"
            " unmated='removed'"
        )


def _search(
    query: ImageSet,
    gallery: ImageSet,
    matches: Any,
    *,
    metric: str,
    block: int | None,
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each query's best mate's score and rank, and the best score of other people.

    Scores are cosines or distances times -1, -inf if there is no image. Equal scores are ordered by
    gallery index.
    """
    features = read_rows(query.features, slice(None)), gallery.features
    size = block_size(len(query), max(len(gallery), 1)) if block is None else block
    size = checks.positive_int("block", size)
    best_mate = np.full(len(query), -np.inf, np.float32)
    best_other = np.full(len(query), -np.inf, np.float32)
    first_rank = np.zeros(len(query), np.int64)
    blocks = iterate_scores(*features, metric=metric, block=size) if len(gallery) else ()
    for which, scores in blocks:
        rows = np.array(scores)[: which.stop - which.start]
        if metric == "euclidean":
            rows = minus_distances(features[0][which], rows)
        for row, q in zip(rows, range(which.start, which.stop), strict=True):
            relevant, removed, others = (lists.of(q) for lists in matches)
            mates = row[relevant]
            row[removed] = row[others] = row[relevant] = -np.inf
            best_other[q] = row.max(initial=-np.inf)
            if len(mates):
                place = int(np.argmax(mates))  # the first of equal ones
                best_mate[q], item = mates[place], relevant[place]
                ahead = row > mates[place]
                ahead[:item] |= row[:item] == mates[place]
                first_rank[q] = 1 + ahead.sum()
        if progress is not None:
            progress(which.stop, len(query))
    return best_mate, first_rank, best_other


def _operating_point(
    rate: float,
    best_mate: np.ndarray,
    first_rank: np.ndarray,
    best_other: np.ndarray,
    ranks: Sequence[int],
    sign: int,
) -> dict[str, Any]:
    """Return the rates at the lowest threshold whose false alarm rate is at most `rate`."""
    ordered = np.sort(best_other)[::-1]
    allowed = int(rate * len(ordered) * (1 + 1e-12))  # rate < 1, so one score is not allowed
    threshold = np.nextafter(ordered[allowed], np.float32(np.inf))
    detected = best_mate >= threshold
    return {
        "wanted_false_alarm_rate": float(rate),
        "false_alarm_rate": float((best_other >= threshold).mean()),
        "threshold": float(sign * threshold),
        "resolved": bool(rate * len(ordered) * (1 + 1e-12) >= 1),
        "dir": {str(k): float((detected & (first_rank <= k)).mean()) for k in ranks},
    }
