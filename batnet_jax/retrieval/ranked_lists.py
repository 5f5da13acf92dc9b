"""The first places of some queries' ranked lists, for people to look at."""

from typing import NamedTuple

import numpy as np

from batnet_jax.retrieval.image_set import JUNK_PID, ImageSet, camera_views
from batnet_jax.retrieval.search import top_k


class Place(NamedTuple):
    """A gallery item in a ranked list."""

    item: int
    """Its gallery index."""
    rank: int
    """1-based, among the items that count; 0: the query's own camera saw it, so it does not."""
    right: bool
    """Whether it shows the query's identity."""


class Places(NamedTuple):
    """The head of a query's ranked list."""

    first: list[Place]
    """Best first; those that do not count stand where they were found."""
    left_out: int
    """How many more of those that do not count were found among them."""


def first_places(
    query: ImageSet,
    gallery: ImageSet,
    *,
    same_camera: str,
    places: int = 10,
    uncounted: int = 0,
) -> list[Places]:
    """Lists, for each query, its first places, junk left out.

    Args:
      query: the images to list.
      gallery: g images.
      same_camera: "remove": the query's identity seen by its own camera does not count.
      places: that count.
      uncounted: how many of those that do not count are listed among them.
    """
    query_views, gallery_views = camera_views(query.labels, gallery.labels, same_camera)
    junk = gallery.pids == JUNK_PID
    lists, wanted = [], places
    for pid, view in zip(query.pids, query_views, strict=True):
        own = (gallery.pids == pid) & (gallery_views == view)
        lists.append(set(np.flatnonzero(own).tolist()))
        wanted = max(wanted, places + len(lists[-1]))
    wanted = min(wanted + int(junk.sum()), len(junk))
    order, _ = top_k(query.features, gallery.features, wanted)
    return [
        _head([g for g in row.tolist() if not junk[g]], own, gallery.pids == pid, places, uncounted)
        for row, own, pid in zip(order, lists, query.pids, strict=True)
    ]


def _head(
    order: list[int], removed: set[int], right: np.ndarray, places: int, uncounted: int
) -> Places:
    first, rank, seen = [], 0, 0
    for item in order:
        if item in removed:
            seen += 1
            if seen <= uncounted:
                first.append(Place(item, 0, True))
        elif rank < places:
            rank += 1
            first.append(Place(item, rank, bool(right[item])))
        if rank == places:
            break
    return Places(first, max(0, seen - uncounted))


def first_right(query: ImageSet, gallery: ImageSet, *, same_camera: str) -> int:
    """Return the gallery index of the relevant item that is most like a query; ties by index.

    Args:
      query: one image, which has a relevant item.
      gallery: g images.
      same_camera: "remove": items seen by the query's own camera are not relevant.
    """
    (query_view,), gallery_views = camera_views(query.labels, gallery.labels, same_camera)
    relevant = np.flatnonzero((gallery.pids == query.pids[0]) & (gallery_views != query_view))
    rows = np.asarray(gallery.features[relevant], np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    scores = rows @ np.asarray(query.features[0], np.float64)
    return int(relevant[np.argmax(scores / np.where(lengths > 0, lengths, 1))])
