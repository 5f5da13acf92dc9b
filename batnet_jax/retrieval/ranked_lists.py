"""The first places of some queries' ranked lists, for people to look at."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64

from batnet_jax.retrieval.evaluator import JUNK_PID
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
    query_features: Float[np.ndarray, "q d"],
    query_pids: Int64[np.ndarray, " q"],
    query_cameras: Int64[np.ndarray, " q"],
    gallery_features: Float[np.ndarray, "g d"],
    gallery_pids: Int64[np.ndarray, " g"],
    gallery_cameras: Int64[np.ndarray, " g"],
    *,
    same_camera: str,
    places: int = 10,
    uncounted: int = 0,
) -> list[Places]:
    """Lists, for each query, its first places, junk left out.

    Args:
      query_features: of the queries to list.
      query_pids: [q] int.
      query_cameras: [q] int.
      gallery_features: [g, d].
      gallery_pids: [g] int; -1 (junk) is dropped.
      gallery_cameras: [g] int.
      same_camera: "remove": the query's identity seen by its own camera does not count.
      places: that count.
      uncounted: how many of those that do not count are listed among them.
    """
    junk = gallery_pids == JUNK_PID
    lists, wanted = [], places
    for pid, camera in zip(query_pids, query_cameras, strict=True):
        own = (gallery_pids == pid) & (gallery_cameras == camera) & (same_camera == "remove")
        lists.append(set(np.flatnonzero(own).tolist()))
        wanted = max(wanted, places + len(lists[-1]))
    wanted = min(wanted + int(junk.sum()), len(junk))
    order, _ = top_k(query_features, gallery_features, wanted)
    return [
        _head([g for g in row.tolist() if not junk[g]], own, gallery_pids == pid, places, uncounted)
        for row, own, pid in zip(order, lists, query_pids, strict=True)
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


def first_right(
    query_feature: Float[np.ndarray, " d"],
    gallery_features: Float[np.ndarray, "g d"],
    relevant: Int64[np.ndarray, " r"],
) -> int:
    """The item among r >= 1 relevant ones that is most like the query; ties by gallery index."""
    rows = np.asarray(gallery_features[relevant], np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    scores = rows @ np.asarray(query_feature, np.float64)
    return int(relevant[np.argmax(scores / np.where(lengths > 0, lengths, 1))])
