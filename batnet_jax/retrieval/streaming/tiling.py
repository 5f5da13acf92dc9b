"""Which queries meet which part of the gallery, and in what order: index plans, pure NumPy.

The gallery is taken in chunks, the queries in blocks; a tile is a block's scores against a chunk.
To count what stands ahead of a query's relevant items their scores must be known first, and they
must be the very scores of the tile: computed once more, in another shape, they differ in the last
bit. So all images of an identity lie in one chunk, the *home* of its queries. A block meets its
home first, where its relevant items' scores are read, then the other chunks, in any order. Images
of identities that no query asks for come last: when they arrive, all that they are compared with
is known, and they need not be kept.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

ROWS = 32  # queries for which something is counted at a time; a block of more is a multiple of it
SLOTS = 8  # relevant items of each that are counted at a time
PAGE = 128  # relevant items of a query that share an array
WINDOW = 64  # scores of a tile's row that are compared one after the other
LANES = 64  # a chunk's length is a multiple of it, and it one of WINDOW


class Pairs(NamedTuple):
    """The relevant items of every query, one after the other: those of q are at offsets[q : q+1].

    A query's items are in gallery order. There are fewer than 2^31.
    """

    items: Int64[np.ndarray, " m"]
    offsets: Int64[np.ndarray, " q+1"]

    @property
    def counts(self) -> Int64[np.ndarray, " q"]:
        """How many each query has."""
        return np.diff(self.offsets)


class Plan(NamedTuple):
    """See `make_plan`."""

    relevant: Pairs
    removed: Pairs
    chunks: list[Int64[np.ndarray, " n"]]  # gallery items of each, ascending
    length: int  # of a chunk, with what fills it up
    blocks: list[Int64[np.ndarray, " n"]]  # queries of each
    rows: int  # of a block, with what fills it up
    home: Int32[np.ndarray, " q"]  # the chunk of each query's identity; -1: nothing relevant


def own_items(
    query_labels: np.ndarray,
    query_views: np.ndarray,
    gallery_labels: np.ndarray,
    gallery_views: np.ndarray,
) -> tuple[Pairs, Pairs]:
    """The gallery items of each query's identity: the relevant, and those of the query's own view.

    Args: [q] and [g] int: identity and camera.
    """
    small = gallery_labels.min(initial=0) >= 0 and gallery_labels.max(initial=0) < 2**16
    keys = gallery_labels.astype(np.uint16) if small else gallery_labels  # sorted by digits
    by_label = np.argsort(keys, kind="stable")
    in_order = gallery_labels[by_label]
    first = np.searchsorted(in_order, query_labels, "left")
    count = np.searchsorted(in_order, query_labels, "right") - first
    ends = np.cumsum(count)
    query = np.repeat(np.arange(len(query_labels)), count)
    place = np.arange(len(query)) - np.repeat(ends - count, count)
    items = by_label[first[query] + place]
    same_view = gallery_views[items] == query_views[query]

    def pairs(chosen: np.ndarray) -> Pairs:
        counts = np.bincount(query[chosen], minlength=len(query_labels))
        return Pairs(items[chosen], np.concatenate([[0], np.cumsum(counts)]))

    return pairs(~same_view), pairs(same_view)


def make_plan(
    query_labels: np.ndarray,
    query_views: np.ndarray,
    gallery_labels: np.ndarray,
    gallery_views: np.ndarray,
    *,
    block: int,
    chunk: int,
) -> Plan:
    """Deal the gallery into chunks and the queries into blocks.

    Args:
      query_labels: [q] int, identities.
      query_views: [q] int, cameras; where a query's is that of a gallery item of its identity, the
        item is removed.
      gallery_labels: [g] int.
      gallery_views: [g] int.
      block: queries in a block, at most.
      chunk: gallery items in a chunk. More where an identity has more.
    Returns: blocks hold only queries with something relevant, those of one home and of like many
      relevant items side by side, as a tile's cost is that of its longest list.
    """
    relevant, removed = own_items(query_labels, query_views, gallery_labels, gallery_views)
    valid = np.flatnonzero(relevant.counts)
    wanted, sizes = np.unique(
        gallery_labels[np.isin(gallery_labels, query_labels[valid])], return_counts=True
    )
    length, home_of = _pack(sizes, len(gallery_labels), chunk)
    num_homes = int(home_of.max(initial=-1)) + 1

    place = np.minimum(np.searchsorted(wanted, gallery_labels), max(len(wanted) - 1, 0))
    is_wanted = wanted[place] == gallery_labels if len(wanted) else np.zeros(len(place), bool)
    items = np.flatnonzero(is_wanted)
    items = items[np.argsort(home_of[place[items]], kind="stable")]
    filled = np.bincount(home_of, weights=sizes, minlength=num_homes).astype(int)
    chunks = np.split(items, np.cumsum(filled)[:-1]) if num_homes else []
    others = np.flatnonzero(~is_wanted)
    if chunks:  # the last one has room left
        room = length - len(chunks[-1])
        chunks[-1] = np.sort(np.concatenate([chunks[-1], others[:room]]))
        others = others[room:]
    chunks += [others[start : start + length] for start in range(0, len(others), length)]

    home = np.full(len(query_labels), -1, np.int32)
    home[valid] = home_of[np.searchsorted(wanted, query_labels[valid])]
    # Up and down by turns, so that a block across two homes has like many of both.
    counts = np.where(home[valid] % 2, -1, 1) * relevant.counts[valid]
    order = valid[np.lexsort((counts, home[valid]))]
    each = -(-len(order) // max(1, -(-len(order) // block)))
    rows = _round_up(max(each, 1), SLOTS if each <= ROWS else ROWS)
    blocks = [order[start : start + rows] for start in range(0, len(order), rows)]
    return Plan(relevant, removed, chunks, length, blocks, rows, home)


def fill_pages(
    pairs: Pairs, queries: Int64[np.ndarray, " n"], block: int, pages: int
) -> Int32[np.ndarray, "pages block page"]:
    """Where in `pairs.items` each query's items are, in arrays of one shape, -1 elsewhere."""
    where = np.full((block, pages * PAGE), -1, np.int32)
    slot = np.arange(pages * PAGE, dtype=np.int32)
    first = pairs.offsets[queries][:, None].astype(np.int32)
    where[: len(queries)] = np.where(slot < pairs.counts[queries][:, None], first + slot, -1)
    return where.reshape(block, pages, PAGE).transpose(1, 0, 2)


def list_steps(counts: Int64[np.ndarray, " block"], rows: int) -> Int32[np.ndarray, "steps 2"]:
    """First row and column of the parts of a page, `rows` by `SLOTS`, that hold anything.

    Args:
      counts: how many of its places each query fills, from the first on; all if that or more, none
        if 0 or less.
      rows: queries of a part.
    """
    most = counts.reshape(-1, rows).max(1)
    return (np.argwhere(most[:, None] > np.arange(0, PAGE, SLOTS)) * [rows, SLOTS]).astype(np.int32)


def _pack(sizes: np.ndarray, gallery: int, chunk: int) -> tuple[int, Int32[np.ndarray, " n"]]:
    """The length of the chunks, and which each identity goes to: as few and as even as may be."""
    usual = max(min(chunk, gallery), int(sizes.max(initial=1)))
    parts = -(-gallery // usual)
    length = max(-(-gallery // parts), int(sizes.max(initial=1)))
    while True:
        length = _round_up(length, LANES)
        home_of = _first_fit(sizes, length)
        if length >= usual or home_of.max(initial=0) < parts:
            return length, home_of
        length += LANES


def _first_fit(sizes: np.ndarray, length: int) -> Int32[np.ndarray, " n"]:
    """The chunk of each identity, filled one after the other."""
    chunk, room, homes = 0, length, []
    for size in sizes.tolist():
        if size > room:
            chunk, room = chunk + 1, length
        room -= size
        homes.append(chunk)
    return np.array(homes, np.int32)


def _round_up(number: int, unit: int) -> int:
    return -(-int(number) // unit) * unit
