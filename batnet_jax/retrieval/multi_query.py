"""Features of several images as one: queries (Zheng et al., ICCV 2015, section 3.4), and tracks."""

from collections.abc import Sequence
from typing import Any

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
    views, group = np.unique(np.stack([more.pids, more.cameras], 1), axis=0, return_inverse=True)
    pooled = _pool_groups(more.features, group.reshape(-1), len(views), pooling)
    row_of = {tuple(view): row for row, view in enumerate(views.tolist())}
    result = np.array(query.features, copy=True)
    queries = np.stack([query.pids, query.cameras], 1)
    for q, view in enumerate(map(tuple, queries.tolist())):
        if view in row_of:
            result[q] = pooled[row_of[view]]
    return query.replace_features(result)


def pool_tracks(
    features: np.ndarray, tracks: Sequence[Any] | np.ndarray, pooling: str = "mean"
) -> tuple[np.ndarray, np.ndarray]:
    """Pool the features of each track, so that a track is one query or one gallery item.

    Pooled features can be used like the features of images: in `top_k`, in `evaluate`, and as the
    queries or the gallery of `batnet metrics`. `labels[first]` are the labels of the tracks.

    Args:
      features: [n, d] finite floats.
      tracks: [n] the track of each image, numbers or strings.
      pooling: one of `POOLINGS`: the mean of a track's features, or the maximum of each number.

    Returns: [t, d] float32 of unit length, in the order in which the tracks begin; and [t] int64,
      the first image of each track.

    Raises: UserError if the arrays do not fit each other, or `pooling` is unknown.
    """
    features = np.asarray(features)
    names = np.asarray(tracks)
    if features.ndim != 2 or names.shape != features.shape[:1]:
        raise UserError(
            f"features have shape {features.shape} and tracks {names.shape}: must be [n, d] and [n]"
        )
    if pooling not in POOLINGS:
        raise UserError(f"pooling={pooling!r} is not one of {', '.join(POOLINGS)}")
    if not np.isfinite(features).all():
        raise UserError("features have values that are not finite")
    _, first, group = np.unique(names, return_index=True, return_inverse=True)
    order = np.argsort(first)
    pooled = _pool_groups(features, group.reshape(-1), len(first), pooling)[order]
    lengths = np.linalg.norm(pooled, axis=1, keepdims=True)
    return (pooled / np.maximum(lengths, 1e-12)).astype(np.float32), first[order].astype(np.int64)


def _pool_groups(features: np.ndarray, group: np.ndarray, count: int, pooling: str) -> np.ndarray:
    """Return the pooled features of each of `count` groups, [count, d] float64."""
    pooled = np.full((count, features.shape[1]), -np.inf if pooling == "max" else 0.0)
    if pooling == "max":
        np.maximum.at(pooled, group, features)
    else:
        np.add.at(pooled, group, features)
        pooled /= np.bincount(group, minlength=count)[:, None]
    return pooled
