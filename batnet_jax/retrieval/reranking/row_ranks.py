"""Ranks from distances that have been computed, as by re-ranking; on the host."""

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Bool, Float32, Int64

from batnet_jax.retrieval.image_set import Labels
from batnet_jax.retrieval.matches import ItemLists, match_keys
from batnet_jax.retrieval.metrics import Ranks


def ranks_of_rows(
    rows: Iterable[tuple[slice, Float32[np.ndarray, "b g"]]],
    query: Labels,
    gallery: Labels,
    *,
    same_camera: str,
    left_out: ItemLists | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Ranks:
    """Return the 1-based ranks of each query's relevant items, among the items that are kept.

    Args:
      rows: (slice of queries, their distances to the gallery), block after block. A smaller
        distance is nearer; equal distances are ordered by gallery index.
      query: of q images.
      gallery: of g images, none of them junk.
      same_camera: "remove" leaves out items of the query's identity and camera, if cameras are
        known; "keep" leaves nothing out.
      left_out: further items that each query's ranking leaves out; None for none.
      progress: called as progress(queries done, queries in all) after each block.
    """
    query_keys, gallery_keys = match_keys(query, gallery, same_camera)
    found = [np.zeros(0, np.int64)] * len(query)
    for which, distances in rows:
        for q, row in zip(range(which.start, which.stop), distances, strict=True):
            own = gallery_keys.pids == query_keys.pids[q]
            removed = own & (gallery_keys.views == query_keys.views[q])
            if left_out is not None:
                removed[left_out.of(q)] = True
            found[q] = _row_ranks(row, own & ~removed, removed)
        if progress is not None:
            progress(which.stop, len(query))
    offsets = np.cumsum([0, *(len(ranks) for ranks in found)])
    return Ranks(np.concatenate(found), offsets)


def _row_ranks(
    distances: Float32[np.ndarray, " g"],
    relevant: Bool[np.ndarray, " g"],
    removed: Bool[np.ndarray, " g"],
) -> Int64[np.ndarray, " r"]:
    """Return the ranks of one query's relevant items, ascending."""
    kept = np.where(removed, np.inf, distances)
    # One pass over the row for each item costs less than sorting the row, up to some 300 items.
    ranks = [
        1 + np.count_nonzero(kept[:item] <= kept[item]) + np.count_nonzero(kept[item:] < kept[item])
        for item in np.flatnonzero(relevant)
    ]
    return np.sort(np.array(ranks, np.int64))
