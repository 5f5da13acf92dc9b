"""Items of other identities that a query's ranking leaves out: hidden in every tile that has some.

Items of the query's own identity are in its home chunk, where `count.hide_removed` hides them.
Items of other identities may be in any chunk.
"""

import numpy as np
from jaxtyping import Array, Int32

from batnet_jax.retrieval.matches import take_lists
from batnet_jax.retrieval.streaming import count_methods
from batnet_jax.retrieval.streaming.query_blocks import BlockGroup
from batnet_jax.retrieval.streaming.tiling import Plan


class HiddenItems:
    """The chunk and the column of each item to hide, for every group of query blocks."""

    def __init__(self, plan: Plan, groups: list[BlockGroup]):
        """Prepare; without an item to hide, `hide` returns its scores at once."""
        self._length, self._rows = plan.chunk_length, plan.block_rows
        self._any = len(plan.others.items) > 0
        self._lists = []
        if not self._any:
            return
        chunk_of, column_of = np.zeros((2, sum(map(len, plan.chunks))), np.int32)
        for number, items in enumerate(plan.chunks):
            chunk_of[items], column_of[items] = number, np.arange(len(items))
        for group in groups:
            own = [take_lists(plan.others, block) for block in group.blocks]
            self._lists.append(
                [(one.queries, chunk_of[one.items], column_of[one.items]) for one in own]
            )

    def hide(self, scores: Array, group: int, chunk: int) -> Array:
        """Set the hidden items' scores to -inf.

        Args:
          scores: [devices, b, n] of a group of query blocks against a chunk; overwritten.
          group: the index of the group.
          chunk: the index of the chunk.
        """
        if not self._any:
            return scores
        chosen = [
            (row[chunks == chunk], column[chunks == chunk])
            for row, chunks, column in self._lists[group]
        ]
        most = max(int(np.bincount(row).max(initial=0)) for row, _ in chosen)
        if not most:
            return scores
        slots = 1 << (most - 1).bit_length()  # a power of two: each number is compiled separately
        columns = [_fill(row, column, self._rows, slots, self._length) for row, column in chosen]
        return count_methods.hide_columns(scores, np.stack(columns))


def _fill(
    row: np.ndarray, column: np.ndarray, rows: int, slots: int, empty: int
) -> Int32[np.ndarray, "rows slots"]:
    """Return the columns of each row, with `empty` in the slots that are left."""
    filled = np.full((rows, slots), empty, np.int32)
    counts = np.bincount(row, minlength=rows)
    slot = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    filled[row, slot] = column
    return filled
