"""The gallery items of each query's identity: relevant ones, and ones its ranking leaves out."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int64

from batnet_jax.retrieval.image_set import Labels


class MatchKeys(NamedTuple):
    """The numbers by which n images are matched.

    A gallery item whose pid equals a query's is relevant to the query; with an equal view, the
    item is removed from the query's ranking instead.
    """

    pids: Int[np.ndarray, " n"]
    views: Int[np.ndarray, " n"]


class ItemLists(NamedTuple):
    """A list of gallery items for each of q queries, stored one after the other.

    A list is in gallery order. All lists together have fewer than 2^31 items.
    """

    items: Int64[np.ndarray, " m"]
    offsets: Int64[np.ndarray, " q+1"]  # query q has items[offsets[q] : offsets[q + 1]]

    @property
    def counts(self) -> Int64[np.ndarray, " q"]:
        """The length of each list."""
        return np.diff(self.offsets)

    def of(self, query: int) -> Int64[np.ndarray, " r"]:
        """Return the items of one query."""
        return self.items[self.offsets[query] : self.offsets[query + 1]]


def match_keys(query: Labels, gallery: Labels, same_camera: str) -> tuple[MatchKeys, MatchKeys]:
    """Return the keys that apply a camera rule.

    Args:
      query: of q images.
      gallery: of g images.
      same_camera: "remove": the views are the cameras. "keep": no two views are equal, so nothing
        is removed. The latter also holds if cameras are not known.
    """
    if same_camera == "keep" or query.cameras is None or gallery.cameras is None:
        query_views, gallery_views = np.full(len(query), -1), np.zeros(len(gallery), np.int64)
    else:
        query_views, gallery_views = query.cameras, gallery.cameras
    return MatchKeys(query.pids, query_views), MatchKeys(gallery.pids, gallery_views)


def find_matches(query: MatchKeys, gallery: MatchKeys) -> tuple[ItemLists, ItemLists]:
    """Return the relevant and the removed gallery items of each query."""
    by_pid = np.argsort(_short_integers(gallery.pids), kind="stable")
    sorted_pids = gallery.pids[by_pid]
    first = np.searchsorted(sorted_pids, query.pids, "left")
    counts = np.searchsorted(sorted_pids, query.pids, "right") - first
    ends = np.cumsum(counts)
    queries = np.repeat(np.arange(len(query.pids)), counts)
    position = np.arange(len(queries)) - np.repeat(ends - counts, counts)  # in the query's list
    items = by_pid[first[queries] + position]
    same_view = gallery.views[items] == query.views[queries]
    return (
        _make_lists(items[~same_view], queries[~same_view], len(query.pids)),
        _make_lists(items[same_view], queries[same_view], len(query.pids)),
    )


def _short_integers(pids: Int[np.ndarray, " g"]) -> Int[np.ndarray, " g"]:
    """Return pids as uint16 if they fit, which NumPy sorts faster (radix sort)."""
    fits = pids.min(initial=0) >= 0 and pids.max(initial=0) < 2**16
    return pids.astype(np.uint16) if fits else pids


def _make_lists(
    items: Int64[np.ndarray, " m"], queries: Int64[np.ndarray, " m"], num_query: int
) -> ItemLists:
    """Return the lists of items whose queries are given, in ascending order of queries."""
    counts = np.bincount(queries, minlength=num_query)
    return ItemLists(items, np.concatenate([[0], np.cumsum(counts)]))
