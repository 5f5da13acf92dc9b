"""Ranks from distances that are there already, as those of re-ranking: on the host."""

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float32, Int64

from batnet_jax.retrieval.checks import Images
from batnet_jax.retrieval.metrics import Ranks


def ranks_of_rows(
    rows: Iterable[tuple[slice, Float32[np.ndarray, "b g"]]],
    query: Images,
    gallery: Images,
    *,
    same_camera: str,
    progress: Callable[[int, int], None] | None = None,
) -> Ranks:
    """For every query the 1-based ranks of its relevant gallery items among the kept ones.

    Args:
      rows: (which queries, their distances to the gallery), block after block; smaller is nearer,
        equal distances are ordered by gallery index.
      query: q images.
      gallery: g images, none of them junk.
      same_camera: "remove" leaves out items of the query's identity and camera, where cameras are
        known; "keep" leaves nothing out.
      progress: called as progress(queries done, queries in all) after each block.
    """
    nothing = np.zeros(len(gallery.pids), bool)
    found = [np.zeros(0, np.int64)] * len(query.pids)
    for which, distances in rows:
        for number, row in zip(range(which.start, which.stop), distances, strict=True):
            relevant = gallery.pids == query.pids[number]
            removed = nothing
            if (
                same_camera == "remove"
                and query.cameras is not None
                and gallery.cameras is not None
            ):
                removed = relevant & (gallery.cameras == query.cameras[number])
            found[number] = _row_ranks(row, relevant & ~removed, removed)
        if progress is not None:
            progress(which.stop, len(query.pids))
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
