"""The heads of ranked lists, for people to look at."""

from typing import NamedTuple

import numpy as np

from batnet_jax.retrieval.image_set import JUNK_PID, ImageSet
from batnet_jax.retrieval.matches import ItemLists, find_matches, match_keys, no_items
from batnet_jax.retrieval.search import top_k


class Place(NamedTuple):
    """A gallery item in a ranked list."""

    item: int
    """Its gallery index."""
    rank: int
    """1-based, among the items that count; 0 for an item that does not count, because it is an
    image of the query's identity from the query's own camera."""
    right: bool
    """Whether it shows the query's identity."""


class ListHead(NamedTuple):
    """The head of a query's ranked list."""

    first: list[Place]
    """Best first, including a few items that do not count."""
    left_out: int
    """The number of further items in this part of the list that do not count."""


def first_places(
    query: ImageSet,
    gallery: ImageSet,
    *,
    same_camera: str,
    left_out: ItemLists | None = None,
    places: int = 10,
    uncounted: int = 0,
) -> list[ListHead]:
    """List the first places of each query, without junk.

    Args:
      query: q images.
      gallery: g images.
      same_camera: "remove": items of the query's identity seen by its own camera do not count.
      left_out: items that each query's list leaves out, as junk; None for none.
      places: items that count, in each list.
      uncounted: the largest number of items that do not count, in each list.
    """
    keys = match_keys(query.labels, gallery.labels, same_camera)
    removed = find_matches(*keys).removed
    if left_out is None:
        left_out = no_items(len(query))
    is_junk = gallery.pids == JUNK_PID
    k = places + int(removed.counts.max(initial=0)) + int(is_junk.sum())
    k += int(left_out.counts.max(initial=0))
    order, _ = top_k(query.features, gallery.features, min(k, len(gallery)))
    heads = []
    for q, items in enumerate(order):
        is_right = gallery.pids == query.pids[q]
        own = set(removed.of(q).tolist())
        is_hidden = is_junk[items] | np.isin(items, left_out.of(q))
        heads.append(_list_head(items[~is_hidden].tolist(), own, is_right, places, uncounted))
    return heads


def _list_head(
    items: list[int], removed: set[int], is_right: np.ndarray, places: int, uncounted: int
) -> ListHead:
    """Return the head of one list; see `first_places`.

    Args:
      items: best first.
      removed: the items that do not count.
      is_right: [g] bool.
      places: items that count.
      uncounted: the largest number of items that do not count.
    """
    first, rank, num_removed = [], 0, 0
    for item in items:
        if item in removed:
            num_removed += 1
            if num_removed <= uncounted:
                first.append(Place(item, 0, True))
        elif rank < places:
            rank += 1
            first.append(Place(item, rank, bool(is_right[item])))
        if rank == places:
            break
    return ListHead(first, max(0, num_removed - uncounted))


def first_right(
    query: ImageSet, gallery: ImageSet, *, same_camera: str, left_out: ItemLists | None = None
) -> int:
    """Return the gallery index of the relevant item most similar to a query; ties by index.

    Args:
      query: one image that has a relevant item.
      gallery: g images.
      same_camera: "remove": items seen by the query's own camera are not relevant.
      left_out: further items that are not relevant; None for none.
    """
    keys = match_keys(query.labels, gallery.labels, same_camera)
    relevant = find_matches(*keys, left_out).relevant.of(0)
    rows = np.asarray(gallery.features[relevant], np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    scores = rows @ np.asarray(query.features[0], np.float64)
    return int(relevant[np.argmax(scores / np.where(lengths > 0, lengths, 1))])
