"""Ranks from distances that are there already, as those of re-ranking: on the host."""

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float32, Int64

from batnet_jax.retrieval.image_set import Labels, camera_views
from batnet_jax.retrieval.metrics import Ranks


def ranks_of_rows(
    rows: Iterable[tuple[slice, Float32[np.ndarray, "b g"]]],
    query: Labels,
    gallery: Labels,
    *,
    same_camera: str,
    progress: Callable[[int, int], None] | None = None,
) -> Ranks:
    """For every query the 1-based ranks of its relevant gallery items among the kept ones.

    Args:
      rows: (which queries, their distances to the gallery), block after block; smaller is nearer,
        equal distances are ordered by gallery index.
      query: of q images.
      gallery: of g images, none of them junk.
      same_camera: "remove" leaves out items of the query's identity and camera, where cameras are
        known; "keep" leaves nothing out.
      progress: called as progress(queries done, queries in all) after each block.
    """
    query_views, gallery_views = camera_views(query, gallery, same_camera)
    found = [np.zeros(0, np.int64)] * len(query)
    for which, distances in rows:
        for number, row in zip(range(which.start, which.stop), distances, strict=True):
            own = gallery.pids == query.pids[number]
            same_view = gallery_views == query_views[number]
            found[number] = _row_ranks(row, own & ~same_view, own & same_view)
        if progress is not None:
            progress(which.stop, len(query))
    offsets = np.cumsum([0, *(len(ranks) for ranks in found)])
    return Ranks(np.concatenate(found), offsets)


def _row_ranks(
    distances: Float32[np.ndarray, " g"], relevant: np.ndarray, removed: np.ndarray
) -> Int64[np.ndarray, " r"]:
    kept = np.where(removed, np.float32(np.inf), distances)
    ranks = [  # a pass over the row for each: less than sorting it, up to some 300
        1 + np.count_nonzero(kept[:item] <= kept[item]) + np.count_nonzero(kept[item:] < kept[item])
        for item in np.flatnonzero(relevant)
    ]
    return np.sort(np.array(ranks, np.int64))
