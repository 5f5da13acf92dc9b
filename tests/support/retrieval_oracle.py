"""An oracle of the evaluator: simple, slow, float64, one query at a time, without its code."""

import math

import numpy as np


def similarity(query, gallery, metric):
    """Return similarities [g], float64; greater is more similar."""
    query, gallery = query.astype(np.float64), gallery.astype(np.float64)
    if metric == "euclidean":
        return np.array([-sum((a - b) ** 2 for a, b in zip(query, item, strict=True))
                         for item in gallery])  # fmt: skip

    def unit(v):
        length = math.sqrt(sum(x * x for x in v))
        return v / length if length else v

    return np.array([float(np.dot(unit(query), unit(item))) for item in gallery])


def ranked_matches(scores, pid, camera, gallery_pids, gallery_cameras, *, keep, ignored=()):
    """Return for each place of a ranked list whether it is right, without junk and removed items.

    With `keep`, images of the query's own view are not removed. Items in `ignored` always are.
    """
    order = np.argsort(-scores, kind="stable")
    matches = []
    for g in order:
        if gallery_pids[g] == -1 or g in ignored:
            continue
        right = gallery_pids[g] == pid
        if right and not keep and gallery_cameras[g] == camera:
            continue
        matches.append(bool(right))
    return matches


def precision_ap(matches):
    hits, total = 0, 0.0
    for position, right in enumerate(matches, start=1):
        if right:
            hits += 1
            total += hits / position
    return total / hits


def market_ap(matches):
    """Return the AP as Market-1501's compute_AP.m does, position by position."""
    good = sum(matches)
    old_recall, old_precision, ap, hits = 0.0, 1.0, 0.0, 0
    for walked, right in enumerate(matches):
        hits += right
        recall = hits / good
        precision = hits / (walked + 1)
        ap += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
        if hits == good:
            break
    return ap


def evaluate(
    query_features, query_pids, query_cameras, gallery_features, gallery_pids, gallery_cameras,
    *, metric, ap, same_camera, cmc_ranks=(1, 5, 10, 20), ignored=None,
):  # fmt: skip
    """Return the result of `batnet_jax.retrieval.evaluate`, or None if no query is valid.

    `ignored` has the set of gallery items that each query ignores.
    """
    curves, aps, inps = [], [], []
    for q in range(len(query_features)):
        matches = ranked_matches(
            similarity(query_features[q], gallery_features, metric),
            query_pids[q],
            None if query_cameras is None else query_cameras[q],
            gallery_pids,
            gallery_cameras,
            keep=same_camera == "keep" or query_cameras is None,
            ignored=() if ignored is None else ignored[q],
        )
        if not any(matches):
            continue
        curve = np.maximum.accumulate(np.array(matches, float))
        beyond = max(0, max(cmc_ranks) - len(curve))
        curves.append(np.concatenate([curve, np.full(beyond, curve[-1])])[: max(cmc_ranks)])
        aps.append(precision_ap(matches) if ap == "precision" else market_ap(matches))
        last = len(matches) - matches[::-1].index(True)
        inps.append(sum(matches) / last)
    if not aps:
        return None
    mean_curve = np.mean(curves, axis=0)
    return {
        "num_query": len(query_features),
        "num_gallery": int(np.sum(np.asarray(gallery_pids) != -1)),
        "num_valid_query": len(aps),
        "mAP": float(np.mean(aps)),
        "mINP": float(np.mean(inps)),
        "cmc": {str(k): float(mean_curve[k - 1]) for k in cmc_ranks},
        "ap": ap,
    }
