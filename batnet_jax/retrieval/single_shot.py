"""CMC with one gallery image a person: the classic protocol of CUHK03 (Li et al., CVPR 2014)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from batnet_jax.retrieval import checks
from batnet_jax.retrieval.evaluator import record_rounding
from batnet_jax.retrieval.image_set import ImageSet, no_match
from batnet_jax.retrieval.left_out import check_test
from batnet_jax.retrieval.mapped_rows import read_rows
from batnet_jax.retrieval.matches import ItemLists, find_matches, keep_items, match_keys
from batnet_jax.retrieval.scores import block_size, iterate_scores

Progress = Callable[[int, int], None]


def single_shot_cmc(
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
    trials: int = 10,
    seed: int = 0,
    cmc_ranks: Sequence[int] = (1, 5, 10, 20),
    block: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw one gallery image of every identity and measure the rank of the right one.

    All queries of a trial have the same draws, except for the query's own identity: its image is
    drawn among the images that the camera rule keeps. Draws depend on the seed, the trial and the
    query, not on `block`. Equal scores are ordered by gallery index. Where a query ignores an image
    that was drawn for another identity, another image of this identity is drawn.

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
      metric: see `evaluate`.
      same_camera: see `evaluate`.
      trials: the number of draws.
      seed: of the draws.
      cmc_ranks: ranks at which to read the CMC curve.
      block: queries at a time; memory grows with block x g. None chooses.
      progress: called as progress(queries done, q) after each block.

    Returns: num_query, num_gallery, num_valid_query, trials, seed, cmc {"1": ...} (mean over valid
      queries and trials), cmc_std (standard deviation between trials).

    Raises:
      UserError: as `evaluate`.
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
    return single_shot_cmc_sets(
        query,
        gallery,
        left_out=left_out,
        metric=metric,
        same_camera=same_camera,
        trials=trials,
        seed=seed,
        cmc_ranks=cmc_ranks,
        block=block,
        progress=progress,
    ) | record_rounding((query_features, query.features), (gallery_features, gallery.features))


def single_shot_cmc_sets(
    query: ImageSet,
    gallery: ImageSet,
    *,
    left_out: ItemLists | None = None,
    metric: str = "cosine",
    same_camera: str = "remove",
    trials: int = 10,
    seed: int = 0,
    cmc_ranks: Sequence[int] = (1, 5, 10, 20),
    block: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure the CMC of two image sets; see `single_shot_cmc`."""
    checks.choice("same_camera", same_camera, checks.SAME_CAMERA)
    trials = checks.positive_int("trials", trials)
    checks.positive_ints("cmc_ranks", cmc_ranks)
    if left_out is not None:
        left_out = keep_items(left_out, gallery.not_junk, len(gallery))
    gallery = gallery.drop_junk()
    keys = match_keys(query.labels, gallery.labels, same_camera)
    relevant, _, ignored = find_matches(*keys, left_out)
    valid = np.flatnonzero(relevant.counts)
    if not len(valid):
        raise no_match(len(query), len(gallery))
    shared, identities = _draw_shared(gallery.pids, trials, seed)
    own = _draw_own(relevant, valid, trials, seed)
    size = block_size(len(valid), len(gallery)) if block is None else block
    size = checks.positive_int("block", size)
    ranks = np.empty((len(valid), trials), np.int64)
    features = read_rows(query.features, valid), gallery.features
    for which, scores in iterate_scores(*features, metric=metric, block=size):
        rows = np.asarray(scores)
        for v in range(which.start, which.stop):
            q = int(valid[v])
            scores_of_q = rows[v - which.start]
            drawn = shared
            if len(ignored.of(q)):
                drawn, scores_of_q = _draw_again(
                    shared, identities, gallery.pids, ignored.of(q), scores_of_q, [seed, 2, q]
                )
            ranks[v] = _own_ranks(scores_of_q, drawn[:, identities != query.pids[q]], own[v])
        if progress is not None:
            progress(which.stop, len(valid))
    curves = {str(k): (ranks <= k).mean(0) for k in cmc_ranks}
    return {
        "num_query": len(query),
        "num_gallery": len(gallery),
        "num_valid_query": len(valid),
        "trials": trials,
        "seed": seed,
        "cmc": {k: float(curve.mean()) for k, curve in curves.items()},
        "cmc_std": {k: float(curve.std()) for k, curve in curves.items()},
    }


def _draw_shared(pids: np.ndarray, trials: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw an item of each identity; return the items [trials, identities] and the identities."""
    by_pid = np.argsort(pids, kind="stable")
    identities, starts, counts = np.unique(pids[by_pid], return_index=True, return_counts=True)
    rng = np.random.default_rng([seed, 0])
    return by_pid[starts + rng.integers(0, counts, (trials, len(counts)))], identities


def _draw_own(relevant: ItemLists, valid: np.ndarray, trials: int, seed: int) -> np.ndarray:
    """Draw a relevant item of each valid query; return the items [v, trials]."""
    rng = np.random.default_rng([seed, 1])
    drawn = rng.integers(0, relevant.counts[valid], (trials, len(valid))).T
    return relevant.items[relevant.offsets[:-1][valid][:, None] + drawn]


def _draw_again(
    drawn: np.ndarray,
    identities: np.ndarray,
    pids: np.ndarray,
    ignored: np.ndarray,
    scores: np.ndarray,
    seed: list[int],
) -> tuple[np.ndarray, np.ndarray]:
    """Draw again, among the other images of the identity, where a query ignores the drawn image.

    Args:
      drawn: [trials, identities] the items that all queries share.
      identities: [identities] of the columns of `drawn`.
      pids: [g] of the gallery.
      ignored: the items that the query ignores.
      scores: [g] of the query.
      seed: of the draws.

    Returns: the items, and the scores with -inf for ignored items: an identity that has no other
      image keeps an ignored one, which is ahead of nothing.
    """
    rng = np.random.default_rng(seed)
    is_kept = np.ones(len(pids), bool)
    is_kept[ignored] = False
    drawn = drawn.copy()
    for column in np.flatnonzero(np.isin(identities, pids[ignored])):
        items = np.flatnonzero(is_kept & (pids == identities[column]))
        trials = np.flatnonzero(~is_kept[drawn[:, column]])
        if len(items):
            drawn[trials, column] = items[rng.integers(0, len(items), len(trials))]
    return drawn, np.where(is_kept, scores, np.float32(-np.inf))


def _own_ranks(scores: np.ndarray, others: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the rank of each trial's own item.

    Args:
      scores: [g] of one query.
      others: [trials, n] the items of other identities.
      own: [trials] the item of the query's identity.
    """
    own_scores = scores[own][:, None]
    other_scores = scores[others]
    is_tie_ahead = (other_scores == own_scores) & (others < own[:, None])
    return 1 + ((other_scores > own_scores) | is_tie_ahead).sum(1)
