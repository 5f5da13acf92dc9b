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
    score: float
    """The cosine of its features and the query's."""


class ListHead(NamedTuple):
    """The head of a query's ranked list."""

    first: list[Place]
    """Best first, including a few items that do not count."""
    left_out: int
    """The number of further items in this part of the list that do not count."""
    missed: list[Place]
    """Right items that rank behind this part, best first; see `first_places`."""
    num_missed: int
    """The number of all right items behind this part; 0 if none were asked for."""


def first_places(
    query: ImageSet,
    gallery: ImageSet,
    *,
    same_camera: str,
    left_out: ItemLists | None = None,
    places: int = 10,
    uncounted: int = 0,
    missed: int = 0,
) -> list[ListHead]:
    """List the first places of each query, without junk.

    Args:
      query: q images.
      gallery: g images.
      same_camera: "remove": items of the query's identity seen by its own camera do not count.
      left_out: items that each query's list leaves out, as junk; None for none.
      places: items that count, in each list.
      uncounted: the largest number of items that do not count, in each list.
      missed: the largest number of right items behind the first places. If it is not 0, the whole
        gallery is sorted for each query, which takes 8 bytes x q x g.
    """
    keys = match_keys(query.labels, gallery.labels, same_camera)
    removed = find_matches(*keys).removed
    if left_out is None:
        left_out = no_items(len(query))
    is_junk = gallery.pids == JUNK_PID
    k = places + int(removed.counts.max(initial=0)) + int(is_junk.sum())
    k += int(left_out.counts.max(initial=0))
    k = len(gallery) if missed else min(k, len(gallery))
    order, scores = top_k(query.features, gallery.features, k)
    heads = []
    for q, (items, own_scores) in enumerate(zip(order, scores, strict=True)):
        kept = ~(is_junk[items] | np.isin(items, left_out.of(q)))
        items, own_scores = items[kept], own_scores[kept]
        counts = ~np.isin(items, removed.of(q))
        ranks = np.where(counts, np.cumsum(counts), 0)
        is_right = gallery.pids[items] == query.pids[q]
        columns = (items.tolist(), ranks.tolist(), is_right.tolist(), own_scores.tolist())
        heads.append(_list_head(list(map(Place, *columns)), places, uncounted, missed))
    return heads


def _list_head(listed: list[Place], places: int, uncounted: int, missed: int) -> ListHead:
    """Return the head of one list; see `first_places`.

    Args:
      listed: all places of the list that are known, best first.
      places: items that count.
      uncounted: the largest number of items that do not count.
      missed: the largest number of right items behind the first places.
    """
    end = next((i + 1 for i, place in enumerate(listed) if place.rank == places), len(listed))
    own = [place for place in listed[:end] if not place.rank]
    hidden = set(own[uncounted:])
    first = [place for place in listed[:end] if place not in hidden]
    behind = [place for place in listed[end:] if place.rank and place.right] if missed else []
    return ListHead(first, len(hidden), behind[:missed], len(behind))
