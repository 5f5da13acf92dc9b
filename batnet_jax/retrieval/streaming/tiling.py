"""The plan of an evaluation: gallery chunks, query blocks, and each query's home chunk; pure NumPy.

Counting the items ahead of a relevant item needs the relevant item's own score, the threshold. The
threshold must be the number that its tile contains: computed again, in an array of another shape,
it may differ in the last bit. All images of an identity are therefore in one chunk, the home chunk
of the identity's queries. A block meets its home chunk first, where the thresholds are read, and
then the other chunks in any order. Images of identities without a query are in the last chunks.
When the last chunks arrive, all thresholds are known, and no chunk has to be cached.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Int64

from batnet_jax.retrieval.matches import ItemLists, MatchKeys, find_matches

STEP_ROWS = 32  # queries that a step of counting handles; larger blocks are a multiple of it
STEP_SLOTS = 8  # relevant items of each of these queries that a step handles
PAGE_SLOTS = 128  # relevant items of a query in one page
WINDOW = 64  # consecutive scores of a tile's row whose comparisons are unrolled
CHUNK_UNIT = 64  # a chunk's length is a multiple of it; itself a multiple of WINDOW


class Plan(NamedTuple):
    """The division of an evaluation into tiles; see `make_plan`."""

    relevant: ItemLists
    removed: ItemLists
    others: ItemLists  # left out as well, but of other identities, so of any chunk
    chunks: list[Int64[np.ndarray, " n"]]  # gallery items of each chunk, ascending
    chunk_length: int  # of every chunk, padding included
    blocks: list[Int64[np.ndarray, " n"]]  # queries of each block
    block_rows: int  # of every block, padding included
    home: Int32[np.ndarray, " q"]  # each query's home chunk; -1 without a relevant item


def make_plan(
    query: MatchKeys,
    gallery: MatchKeys,
    left_out: ItemLists | None = None,
    *,
    block: int,
    chunk: int,
) -> Plan:
    """Divide the gallery into chunks and the queries into blocks.

    Blocks contain only queries that have a relevant item.

    Args:
      query: of q images.
      gallery: of g images.
      left_out: items that do not count, for each query; None for none.
      block: the largest number of queries in a block.
      chunk: the largest number of gallery items in a chunk, unless an identity has more.
    """
    relevant, removed, others = find_matches(query, gallery, left_out)
    valid = np.flatnonzero(relevant.counts)
    has_query = np.isin(gallery.pids, query.pids[valid])
    queried_pids, sizes = np.unique(gallery.pids[has_query], return_counts=True)
    length, chunk_of_pid = _pack(sizes, len(gallery.pids), chunk)
    chunks = _fill_chunks(gallery.pids, queried_pids, chunk_of_pid, length)
    home = np.full(len(query.pids), -1, np.int32)
    home[valid] = chunk_of_pid[np.searchsorted(queried_pids, query.pids[valid])]
    blocks, rows = _fill_blocks(valid, home[valid], relevant.counts[valid], block)
    return Plan(relevant, removed, others, chunks, length, blocks, rows, home)


def _pack(sizes: np.ndarray, gallery: int, chunk: int) -> tuple[int, Int32[np.ndarray, " n"]]:
    """Return the length of the chunks and the chunk of each identity.

    The chunks are as few and as equal as whole identities permit.
    """
    largest = int(sizes.max(initial=1))
    usual = max(min(chunk, gallery), largest)
    num_chunks = -(-gallery // usual)
    length = max(-(-gallery // num_chunks), largest)
    while True:
        length = _round_up(length, CHUNK_UNIT)
        chunk_of_pid = _first_fit(sizes, length)
        if length >= usual or chunk_of_pid.max(initial=0) < num_chunks:
            return length, chunk_of_pid
        length += CHUNK_UNIT


def _first_fit(sizes: np.ndarray, length: int) -> Int32[np.ndarray, " n"]:
    """Return the chunk of each identity if chunks are filled one after the other."""
    chunk, room, chunks = 0, length, []
    for size in sizes.tolist():
        if size > room:
            chunk, room = chunk + 1, length
        room -= size
        chunks.append(chunk)
    return np.array(chunks, np.int32)


def _fill_chunks(
    pids: Int[np.ndarray, " g"],
    queried_pids: Int[np.ndarray, " n"],
    chunk_of_pid: Int32[np.ndarray, " n"],
    length: int,
) -> list[Int64[np.ndarray, " n"]]:
    """Return the gallery items of each chunk; items of identities without a query come last."""
    if not len(queried_pids):
        items = np.arange(len(pids))
        return [items[start : start + length] for start in range(0, len(items), length)]
    row = np.minimum(np.searchsorted(queried_pids, pids), len(queried_pids) - 1)
    is_queried = queried_pids[row] == pids
    items = np.flatnonzero(is_queried)
    chunk_of_item = chunk_of_pid[row[items]]
    order = np.argsort(chunk_of_item, kind="stable")
    chunks = np.split(items[order], np.cumsum(np.bincount(chunk_of_item))[:-1])
    others = np.flatnonzero(~is_queried)
    room = length - len(chunks[-1])
    chunks[-1] = np.sort(np.concatenate([chunks[-1], others[:room]]))
    others = others[room:]
    return chunks + [others[start : start + length] for start in range(0, len(others), length)]


def _fill_blocks(
    queries: Int64[np.ndarray, " v"],
    home: Int32[np.ndarray, " v"],
    counts: Int64[np.ndarray, " v"],
    block: int,
) -> tuple[list[Int64[np.ndarray, " n"]], int]:
    """Return the queries of each block, and the rows of a block.

    Queries of one home chunk and of similar numbers of relevant items are in one block, because
    the longest list determines the cost of a tile.
    """
    # The order of counts alternates: a block across two homes then has similar counts from both.
    signed_counts = np.where(home % 2, -1, 1) * counts
    order = queries[np.lexsort((signed_counts, home))]
    num_blocks = max(1, -(-len(order) // block))
    each = -(-len(order) // num_blocks)
    rows = _round_up(max(each, 1), STEP_SLOTS if each <= STEP_ROWS else STEP_ROWS)
    return [order[start : start + rows] for start in range(0, len(order), rows)], rows


def fill_pages(
    lists: ItemLists, queries: Int64[np.ndarray, " n"], rows: int, num_pages: int
) -> Int32[np.ndarray, "num_pages rows page"]:
    """Return the index into `lists.items` of each slot of a block's pages; -1 in empty slots."""
    indices = np.full((rows, num_pages * PAGE_SLOTS), -1, np.int32)
    slots = np.arange(num_pages * PAGE_SLOTS, dtype=np.int32)
    first = lists.offsets[queries][:, None].astype(np.int32)
    indices[: len(queries)] = np.where(slots < lists.counts[queries][:, None], first + slots, -1)
    return indices.reshape(rows, num_pages, PAGE_SLOTS).transpose(1, 0, 2)


def list_steps(counts: Int64[np.ndarray, " rows"], step_rows: int) -> Int32[np.ndarray, "steps 2"]:
    """Return the first row and first slot of each step of a page that has a filled slot.

    Args:
      counts: the filled slots of each row, which are the row's first. Numbers above the page's
        size mean all slots, numbers below 0 none.
      step_rows: rows of a step.
    """
    most = counts.reshape(-1, step_rows).max(1)
    steps = np.argwhere(most[:, None] > np.arange(0, PAGE_SLOTS, STEP_SLOTS))
    return (steps * [step_rows, STEP_SLOTS]).astype(np.int32)


def _round_up(number: int, unit: int) -> int:
    return -(-int(number) // unit) * unit
