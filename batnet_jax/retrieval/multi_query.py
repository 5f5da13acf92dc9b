"""Queries of several images (Zheng et al., ICCV 2015, section 3.4: "multiple queries")."""

import numpy as np

POOLINGS = ("mean", "max")


def pool_queries(
    query: tuple[np.ndarray, np.ndarray, np.ndarray],
    more: tuple[np.ndarray, np.ndarray, np.ndarray],
    pooling: str,
) -> np.ndarray:
    """One feature a query, of all images of its identity from its camera.

    Args:
      query: features [q, d], pids [q] and cameras [q].
      more: the same of the m further images; they hold the query's own view too, as Market-1501's
        `gt_bbox` does.
      pooling: one of `POOLINGS`.

    Returns: [q, d]; a query without further images keeps its own feature. Not normalised: a query's
      length does not change its ranking.
    """
    features, pids, cameras = more
    views, group = np.unique(np.stack([pids, cameras], 1), axis=0, return_inverse=True)
    group = group.reshape(-1)
    pooled = np.full((len(views), features.shape[1]), -np.inf if pooling == "max" else 0.0)
    if pooling == "max":
        np.maximum.at(pooled, group, features)
    else:
        np.add.at(pooled, group, features)
        pooled /= np.bincount(group, minlength=len(views))[:, None]
    place = {tuple(view): k for k, view in enumerate(views.tolist())}
    result = np.array(query[0], copy=True)
    for q, view in enumerate(zip(query[1].tolist(), query[2].tolist(), strict=True)):
        if view in place:
            result[q] = pooled[place[view]]
    return result
