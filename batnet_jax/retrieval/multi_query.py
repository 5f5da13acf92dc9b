"""Queries of several images (Zheng et al., ICCV 2015, section 3.4: "multiple queries")."""

import numpy as np

from batnet_jax.errors import UserError
from batnet_jax.retrieval.image_set import ImageSet

POOLINGS = ("mean", "max")


def pool_queries(query: ImageSet, more: ImageSet, pooling: str) -> ImageSet:
    """Replace each query's feature by the pooled features of its identity and camera.

    Args:
      query: q images; a query without further images keeps its own feature.
      more: m further images. They include the queries themselves, as Market-1501's `gt_bbox` does.
      pooling: one of `POOLINGS`.

    Returns: the queries with [q, d] features, which are not normalised: a query's length does not
      change its ranking.

    Raises: UserError if cameras are not known.
    """
    if query.cameras is None or more.cameras is None:
        raise UserError("pool_queries needs the cameras of the queries and of the further images")
    features = more.features
    views, group = np.unique(np.stack([more.pids, more.cameras], 1), axis=0, return_inverse=True)
    group = group.reshape(-1)
    pooled = np.full((len(views), features.shape[1]), -np.inf if pooling == "max" else 0.0)
    if pooling == "max":
        np.maximum.at(pooled, group, features)
    else:
        np.add.at(pooled, group, features)
        pooled /= np.bincount(group, minlength=len(views))[:, None]
    row_of = {tuple(view): row for row, view in enumerate(views.tolist())}
    result = np.array(query.features, copy=True)
    queries = np.stack([query.pids, query.cameras], 1)
    for q, view in enumerate(map(tuple, queries.tolist())):
        if view in row_of:
            result[q] = pooled[row_of[view]]
    return query.replace_features(result)
