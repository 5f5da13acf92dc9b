"""Ranks of the relevant gallery items of each query: the part that runs on the accelerator.

Everything after it needs these ranks alone, so another way to find them can take its place.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, Int64

from batnet_jax.retrieval.checks import Images
from batnet_jax.retrieval.scores import iterate_scores, pad_block

# A label that no gallery item has: queries that pad a block, and cameras where all are kept.
_NOBODY = -1


@functools.partial(jax.jit, static_argnames="max_relevant")
def block_ranks(
    scores: Float32[Array, "b g"],
    query_pids: Int32[Array, " b"],
    query_cameras: Int32[Array, " b"],
    gallery_pids: Int32[Array, " g"],
    gallery_cameras: Int32[Array, " g"],
    *,
    max_relevant: int,
) -> Int32[Array, "b r"]:
    """1-based ranks of each query's relevant items, ascending, then zeros up to `max_relevant`.

    Items of the query's identity seen by the query's own camera are removed: they take no rank.
    Equal scores are ordered by gallery index.
    """
    same_pid: Bool[Array, "b g"] = query_pids[:, None] == gallery_pids
    removed = same_pid & (query_cameras[:, None] == gallery_cameras)
    relevant = same_pid & ~removed
    # Removed items sort behind all others, so a position is a rank among the kept.
    falling = jnp.where(removed, jnp.inf, -scores)
    _, hits = jax.lax.sort((falling, relevant), dimension=1, is_stable=True, num_keys=1)
    num_query, num_gallery = scores.shape
    ranks = jnp.broadcast_to(jnp.arange(1, num_gallery + 1, dtype=jnp.int32), scores.shape)
    column = jnp.where(hits, jnp.cumsum(hits, axis=1) - 1, max_relevant)  # the n-th hit goes n-th
    row = jnp.arange(num_query)[:, None]
    found = jnp.zeros((num_query, max_relevant), jnp.int32)
    return found.at[row, column].set(ranks, mode="drop")


def _labels(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Renumber ids from 0 as int32: 64-bit ids would be cut short on the device."""
    _, labels = np.unique(np.concatenate([query, gallery]), return_inverse=True)
    labels = labels.astype(np.int32)
    return labels[: len(query)], labels[len(query) :]


def _max_relevant(query_labels: np.ndarray, gallery_labels: np.ndarray) -> int:
    """Most items a query can match, rounded up to a power of two so that compilations are few."""
    num_labels = 1 + max(query_labels.max(), gallery_labels.max())
    most = int(np.bincount(gallery_labels, minlength=num_labels)[query_labels].max())
    return min(1 << max(most - 1, 0).bit_length(), len(gallery_labels))


def relevant_ranks(
    query: Images,
    gallery: Images,
    *,
    same_camera: str,
    metric: str,
    block: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Int64[np.ndarray, " r"]]:
    """For every query the 1-based ranks of its relevant gallery items among the kept ones.

    Args:
      query: q images.
      gallery: g images, none of them junk.
      same_camera: "remove" leaves out items of the query's identity and camera, where cameras are
        known; "keep" leaves nothing out.
      metric: "cosine" or "euclidean", see `scores.iterate_scores`.
      block: queries at a time; memory grows with block x g.
      progress: called as progress(queries done, queries in all) after each block.

    Returns: q ascending int64 arrays; an empty one where nothing relevant is left.
    """
    query_labels, gallery_labels = _labels(query.pids, gallery.pids)
    if same_camera == "keep" or query.cameras is None or gallery.cameras is None:
        query_views = np.full(len(query_labels), _NOBODY, np.int32)
        gallery_views = np.zeros(len(gallery_labels), np.int32)
    else:
        query_views, gallery_views = _labels(query.cameras, gallery.cameras)
    max_relevant = _max_relevant(query_labels, gallery_labels)
    gallery_on_device = jax.device_put(gallery_labels), jax.device_put(gallery_views)
    ranks = []
    for which, scores in iterate_scores(
        query.features, gallery.features, metric=metric, block=block
    ):
        padded = block_ranks(
            scores,
            pad_block(query_labels[which], block, _NOBODY),
            pad_block(query_views[which], block, _NOBODY),
            *gallery_on_device,
            max_relevant=max_relevant,
        )
        rows = np.asarray(padded)[: which.stop - which.start].astype(np.int64)
        ranks += [row[row > 0] for row in rows]
        if progress is not None:
            progress(which.stop, len(query_labels))
    return ranks
