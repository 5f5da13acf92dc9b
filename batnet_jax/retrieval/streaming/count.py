"""The arithmetic of one tile: scores, thresholds, and how many scores are ahead of a threshold.

The rank of a relevant item is 1 + the number of items ahead, so nothing is sorted. An item is ahead
if its score is greater, or if its score is equal and its gallery index is lower. A chunk is in
gallery order, so items of lower index are the columns before some position. In these columns,
"greater or equal" is computed as "greater than the next lower float".
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from batnet_jax.retrieval.streaming.tiling import STEP_SLOTS, WINDOW

# The smallest normal float32. Accelerators treat smaller numbers as zero.
_TINY = float(jnp.finfo(jnp.float32).tiny)


def tile_scores(
    queries: Float[Array, "b d"], chunk: Float[Array, "d n"], offset: Float32[Array, " n"] | None
) -> Float32[Array, "b n"]:
    """Return inner products in float32, plus the offset of each gallery item, if any.

    `precision=HIGHEST`, because TF32 or bfloat16 passes would change ranks.
    """
    scores = jnp.matmul(
        queries,
        chunk,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return scores if offset is None else scores + offset


def read_thresholds(
    scores: Float32[Array, "b n"],
    items: Int32[Array, "b page"],
    thresholds: Float32[Array, "b page"],
    columns: Int32[Array, " w"],
    at_home: Bool[Array, " b"],
) -> Float32[Array, "b page"]:
    """Read the scores of relevant items from the tile of their home chunk.

    Args:
      scores: of the tile.
      items: which of the w matched items each slot holds; -1 in empty slots.
      thresholds: as known so far; infinite where unknown.
      columns: each matched item's column; arbitrary for items of other chunks.
      at_home: the queries whose home chunk this is.

    Returns: `thresholds`, with the slots of queries at home replaced.
    """
    found = jnp.take_along_axis(scores, columns[items], axis=1)
    return jnp.where(at_home[:, None] & (items >= 0), found, thresholds)


def hide_removed(
    scores: Float32[Array, "b n"],
    removed: Int32[Array, "b page"],
    columns: Int32[Array, " w"],
    at_home: Bool[Array, " b"],
) -> Float32[Array, "b n"]:
    """Set the scores of removed items to -inf, for the queries whose home chunk this is.

    Args:
      scores: of the tile.
      removed: which of the w matched items to hide; -1 in empty slots.
      columns: see `read_thresholds`.
      at_home: see `read_thresholds`.
    """
    outside = scores.shape[1]
    column = jnp.where(at_home[:, None] & (removed >= 0), columns[removed], outside)
    return hide_columns(scores, column)


def hide_columns(
    scores: Float32[Array, "b n"], columns: Int32[Array, "b slots"]
) -> Float32[Array, "b n"]:
    """Set the scores in some columns of each query to -inf; columns from n on are empty slots."""
    rows = jnp.arange(scores.shape[0])[:, None]
    return scores.at[rows, columns].set(-jnp.inf, mode="drop")


def count_ahead(
    scores: Float32[Array, "b n"],
    items: Int32[Array, "b page"],
    thresholds: Float32[Array, "b page"],
    counts: Int32[Array, "b page"],
    columns: Int32[Array, " w"],
    num_items: Int32[Array, ""],
    active: Bool[Array, " b"],
    origins: Int32[Array, "steps 2"],
    num_steps: Int32[Array, ""],
    *,
    rows: int,
    windows: bool,
    bound: int | None = None,
) -> Int32[Array, "b page"]:
    """Add to `counts` the number of the tile's items ahead of each relevant item.

    One step counts for `rows` queries and `STEP_SLOTS` relevant items of each. Steps skip the
    empty parts of a page.

    Args:
      scores: of the tile.
      items: which of the w matched items each slot holds; -1 in empty slots.
      thresholds: the items' scores.
      counts: so far.
      columns: for each matched item the number of this chunk's items of lower gallery index.
      num_items: the chunk's items. The padding behind them scores 0, which is corrected.
      active: the queries to count for.
      origins: the first row and slot of each step.
      num_steps: the steps to take.
      rows: queries of a step.
      windows: compare window by window, which suits a CPU; if False, in plain sums, which need
        steps of all rows.
      bound: take this constant number of steps, at least `num_steps`, because an accelerator may
        otherwise ask its host after each step. Superfluous steps find empty slots.
    """
    if windows:
        scores = scores.reshape(len(scores), -1, WINDOW)
    thresholds = jnp.where(active[:, None] & (items >= 0), thresholds, jnp.inf)
    tie_columns = columns[items]  # an equal score in an earlier column is ahead
    padding = scores[0].size - num_items

    def step(number: Int32[Array, ""], counts: Array) -> Array:
        row, slot = origins[number, 0], origins[number, 1]
        threshold, tie_column, so_far = (
            jax.lax.dynamic_slice(array, (row, slot), (rows, STEP_SLOTS))
            for array in (thresholds, tie_columns, counts)
        )
        if windows:
            more = _count_windows(scores, row, threshold, tie_column)
            more += _count_ties(scores, row, threshold, tie_column)
        else:
            more = _count_rows(scores, threshold, tie_column)
        more -= padding * (threshold < 0.0)
        return jax.lax.dynamic_update_slice(counts, so_far + more, (row, slot))

    return jax.lax.fori_loop(0, num_steps if bound is None else bound, step, counts)


def _count_rows(
    scores: Float32[Array, "b n"],
    thresholds: Float32[Array, "b slots"],
    tie_columns: Int32[Array, "b slots"],
) -> Int32[Array, "b slots"]:
    """Count the scores that are greater, or equal and before the tie column.

    Each slot is a sum over the same scores: XLA fuses the sums into one kernel, which reads the
    scores once.
    """
    column, below = jnp.arange(scores.shape[1]), next_below(thresholds)
    sums = [
        (
            scores
            > jnp.where(column < tie_columns[:, k, None], below[:, k, None], thresholds[:, k, None])
        ).sum(1, dtype=jnp.int32)
        for k in range(thresholds.shape[1])
    ]
    return jnp.stack(sums, 1)


def _count_windows(
    windows: Float32[Array, "b windows width"],
    row: Int32[Array, ""],
    thresholds: Float32[Array, "rows slots"],
    tie_columns: Int32[Array, "rows slots"],
) -> Int32[Array, "rows slots"]:
    """Count the scores that are greater, or equal and in a window wholly before the tie column.

    The sum over a window is unrolled into elementwise sums, which stay in registers; XLA's CPU
    backend stores the comparisons of a plain `sum` in memory (3 to 8 times slower). A window is
    contiguous and has one threshold for each slot, so neither costs anything in the sum.
    """
    _, count, width = windows.shape
    ends = width * (1 + jnp.arange(count))[:, None]
    threshold = jnp.where(
        tie_columns[:, None] >= ends, next_below(thresholds)[:, None], thresholds[:, None]
    )
    ahead = jnp.zeros(threshold.shape, jnp.int32)
    for k in range(width):
        first = row, *map(jnp.int32, (0, k))  # one type, also under jax_enable_x64
        scores = jax.lax.dynamic_slice(windows, first, (len(thresholds), count, 1))
        ahead += (scores > threshold).astype(jnp.int32)
    return ahead.sum(1, dtype=jnp.int32)


def _count_ties(
    windows: Float32[Array, "b windows width"],
    row: Int32[Array, ""],
    thresholds: Float32[Array, "rows slots"],
    tie_columns: Int32[Array, "rows slots"],
) -> Int32[Array, "rows slots"]:
    """Count the equal scores before the tie column, in the window that contains this column."""
    _, count, width = windows.shape
    which = jnp.minimum(tie_columns // width, count - 1)
    rows = row + jnp.arange(len(thresholds))[:, None]
    scores = windows.at[rows, which].get(mode="promise_in_bounds")
    before = width * which[..., None] + jnp.arange(width) < tie_columns[..., None]
    # A tie column at the end of the chunk is in no window; `_count_windows` has counted them all.
    before &= (tie_columns < width * count)[..., None]
    return ((scores == thresholds[..., None]) & before).sum(2, dtype=jnp.int32)


def next_below(x: Float32[Array, "..."]) -> Float32[Array, "..."]:
    """Return the next lower float32; -`_TINY` for zero and for numbers treated as zero."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    below = jax.lax.bitcast_convert_type(jnp.where(x > 0, bits - 1, bits + 1), jnp.float32)
    return jnp.where(jnp.abs(x) < _TINY, -_TINY, below)
