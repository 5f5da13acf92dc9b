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

    @property
    def queries(self) -> Int64[np.ndarray, " m"]:
        """The query of each item."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def of(self, query: int) -> Int64[np.ndarray, " r"]:
        """Return the items of one query."""
        return self.items[self.offsets[query] : self.offsets[query + 1]]


class Matches(NamedTuple):
    """The relevant gallery items of each of q queries, and those that its ranking leaves out."""

    relevant: ItemLists  # of the query's identity
    removed: ItemLists  # of its identity, with an equal view or left out
    others: ItemLists  # of other identities, left out by the caller


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


def find_matches(
    query: MatchKeys, gallery: MatchKeys, left_out: ItemLists | None = None
) -> Matches:
    """Return the relevant items of each query, and the items that do not count for it.

    Args:
      query: of q images.
      gallery: of g images.
      left_out: further items that do not count for each query; None for none.
    """
    by_pid = np.argsort(_short_integers(gallery.pids), kind="stable")
    sorted_pids = gallery.pids[by_pid]
    first = np.searchsorted(sorted_pids, query.pids, "left")
    counts = np.searchsorted(sorted_pids, query.pids, "right") - first
    ends = np.cumsum(counts)
    queries = np.repeat(np.arange(len(query.pids)), counts)
    position = np.arange(len(queries)) - np.repeat(ends - counts, counts)  # in the query's list
    items = by_pid[first[queries] + position]
    is_removed = gallery.views[items] == query.views[queries]
    others = no_items(len(query.pids))
    if left_out is not None:
        left_queries = left_out.queries
        is_other = gallery.pids[left_out.items] != query.pids[left_queries]
        num_gallery = len(gallery.pids)
        own = (left_queries * num_gallery + left_out.items)[~is_other]
        is_removed |= np.isin(queries * num_gallery + items, own)
        others = make_lists(left_out.items[is_other], left_queries[is_other], len(query.pids))
    return Matches(
        make_lists(items[~is_removed], queries[~is_removed], len(query.pids)),
        make_lists(items[is_removed], queries[is_removed], len(query.pids)),
        others,
    )


def _short_integers(pids: Int[np.ndarray, " g"]) -> Int[np.ndarray, " g"]:
    """Return pids as uint16 if they fit, which NumPy sorts faster (radix sort)."""
    fits = pids.min(initial=0) >= 0 and pids.max(initial=0) < 2**16
    return pids.astype(np.uint16) if fits else pids


def make_lists(
    items: Int64[np.ndarray, " m"], queries: Int64[np.ndarray, " m"], num_query: int
) -> ItemLists:
    """Group items into lists by query; `queries` has the query of each item, ascending."""
    counts = np.bincount(queries, minlength=num_query)
    return ItemLists(items, np.concatenate([[0], np.cumsum(counts)]))


def no_items(num_query: int) -> ItemLists:
    """Return empty lists."""
    return ItemLists(np.empty(0, np.int64), np.zeros(num_query + 1, np.int64))


def keep_items(lists: ItemLists, kept: Int64[np.ndarray, " n"], num_gallery: int) -> ItemLists:
    """Return lists of the items that a smaller gallery keeps, by their indices in it.

    Args:
      lists: of items of the whole gallery.
      kept: the gallery indices of the smaller gallery's items, ascending.
      num_gallery: the size of the whole gallery.
    """
    new_index = np.full(num_gallery, -1, np.int64)
    new_index[kept] = np.arange(len(kept))
    items = new_index[lists.items]
    return make_lists(items[items >= 0], lists.queries[items >= 0], len(lists.counts))


def take_lists(lists: ItemLists, rows: Int64[np.ndarray, " n"]) -> ItemLists:
    """Return the lists of some queries."""
    chosen = [lists.of(int(row)) for row in rows]
    queries = np.repeat(np.arange(len(rows)), [len(items) for items in chosen])
    return make_lists(np.concatenate([np.empty(0, np.int64), *chosen]), queries, len(rows))
