"""A tile: the scores of a block of queries and a chunk of the gallery, and what is read off them.

The rank of a relevant item is 1 + the number of items ahead of it, so nothing has to be sorted.
Ahead is what has a greater score, or an equal one and a lower gallery index. A chunk is in gallery
order, so the latter are the columns before some position. For those, "as great or greater" is
"greater than the next float below".
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from batnet_jax.retrieval.streaming.tiling import SLOTS, WINDOW

# The least positive float32 of full precision. Below it accelerators take numbers for zero.
_TINY = float(jnp.finfo(jnp.float32).tiny)


def tile_scores(
    queries: Float[Array, "b d"], chunk: Float[Array, "d n"], offset: Float32[Array, " n"] | None
) -> Float32[Array, "b n"]:
    """Inner products, plus an offset for each gallery item where there is one; in float32.

    `precision=HIGHEST`: TF32 or bfloat16 passes would change ranks.
    """
    scores = jnp.matmul(
        queries,
        chunk,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return scores if offset is None else scores + offset


def read_limits(
    scores: Float32[Array, "b n"],
    items: Int32[Array, "b page"],
    limits: Float32[Array, "b page"],
    columns: Int32[Array, " w"],
    at_home: Bool[Array, " b"],
) -> Float32[Array, "b page"]:
    """The scores of the relevant items, for the queries that are at home in this chunk.

    Args:
      scores: of the tile.
      items: which of the w wanted items; -1 where there is none.
      limits: what is known already; infinite where nothing is.
      columns: where each wanted item is, or would be, in this chunk.
      at_home: which queries.
    """
    found = jnp.take_along_axis(scores, columns[items], axis=1)
    return jnp.where(at_home[:, None] & (items >= 0), found, limits)


def hide_removed(
    scores: Float32[Array, "b n"],
    removed: Int32[Array, "b page"],
    columns: Int32[Array, " w"],
    at_home: Bool[Array, " b"],
) -> Float32[Array, "b n"]:
    """The scores with the removed items behind all others, for the queries at home here."""
    nowhere = scores.shape[1]
    place = jnp.where(at_home[:, None] & (removed >= 0), columns[removed], nowhere)
    rows = jnp.arange(scores.shape[0])[:, None]
    return scores.at[rows, place].set(-jnp.inf, mode="drop")


def count_ahead(
    scores: Float32[Array, "b n"],
    items: Int32[Array, "b page"],
    limits: Float32[Array, "b page"],
    counts: Int32[Array, "b page"],
    columns: Int32[Array, " w"],
    filled: Int32[Array, ""],
    active: Bool[Array, " b"],
    work: Int32[Array, "steps 2"],
    steps: Int32[Array, ""],
    *,
    rows: int,
    windows: bool,
    bound: int | None = None,
) -> Int32[Array, "b page"]:
    """Adds to `counts` how many of the tile's items stand ahead of each relevant one.

    A step does so for `rows` queries and `SLOTS` relevant items of each; the steps leave out the
    empty parts of a page.

    Args:
      scores: of the tile.
      items: which of the wanted items; -1 where there is none.
      limits: their scores.
      counts: so far.
      columns: how many of the chunk's items have a lower gallery index, for each wanted item.
      filled: how many items the chunk has. What fills it up scores 0, behind all of them.
      active: the queries to count for.
      work: the first row and column of the page that each step takes.
      steps: how many there are.
      rows: queries of a step.
      windows: compare window by window, for a CPU; else in plain sums, with `rows` all of them.
      bound: a number of steps, no fewer than `steps`, to take instead: those of `work` after the
        last find nothing. Known when it compiles, as an accelerator may ask its host after each
        step else.
    """
    if windows:
        scores = scores.reshape(len(scores), -1, WINDOW)
    limits = jnp.where(active[:, None] & (items >= 0), limits, jnp.inf)
    before = columns[items]
    empty = scores[0].size - filled

    def step(number: Int32[Array, ""], counts: Array) -> Array:
        row, column = work[number, 0], work[number, 1]
        limit, left, so_far = (
            jax.lax.dynamic_slice(array, (row, column), (rows, SLOTS))
            for array in (limits, before, counts)
        )
        if windows:
            more = _count_windows(scores, row, limit, left)
            more += _count_ties(scores, row, limit, left)
        else:
            more = _count_rows(scores, limit, left)
        more -= empty * (limit < 0.0)
        return jax.lax.dynamic_update_slice(counts, so_far + more, (row, column))

    return jax.lax.fori_loop(0, steps if bound is None else bound, step, counts)


def _count_rows(
    scores: Float32[Array, "b n"],
    limits: Float32[Array, "b slots"],
    before: Int32[Array, "b slots"],
) -> Int32[Array, "b slots"]:
    """How many scores are greater, or before the item's place as great.

    A sum for each slot, of the same scores: XLA makes one kernel of them, which reads these once.
    """
    place, below = jnp.arange(scores.shape[1]), next_below(limits)
    sums = [
        (scores > jnp.where(place < before[:, k, None], below[:, k, None], limits[:, k, None])).sum(
            1, dtype=jnp.int32
        )
        for k in range(limits.shape[1])
    ]
    return jnp.stack(sums, 1)


def _count_windows(
    windows: Float32[Array, "b windows width"],
    row: Int32[Array, ""],
    limits: Float32[Array, "rows slots"],
    before: Int32[Array, "rows slots"],
) -> Int32[Array, "rows slots"]:
    """How many scores are greater, or in a window wholly before the item's place as great.

    The sum over a window is unrolled: as elementwise sums it stays in registers, where XLA's CPU
    backend writes out the comparisons of a plain `sum` (3 to 8 times slower). A window lies side
    by side in memory, and has one limit for each item: neither costs anything within the sum.
    """
    _, count, width = windows.shape
    ends = width * (1 + jnp.arange(count))[:, None]
    limit = jnp.where(before[:, None] >= ends, next_below(limits)[:, None], limits[:, None])
    ahead = jnp.zeros(limit.shape, jnp.int32)
    for k in range(width):
        first = row, *map(jnp.int32, (0, k))  # of one type under jax_enable_x64 too
        scores = jax.lax.dynamic_slice(windows, first, (len(limits), count, 1))
        ahead += (scores > limit).astype(jnp.int32)
    return ahead.sum(1, dtype=jnp.int32)


def _count_ties(
    windows: Float32[Array, "b windows width"],
    row: Int32[Array, ""],
    limits: Float32[Array, "rows slots"],
    before: Int32[Array, "rows slots"],
) -> Int32[Array, "rows slots"]:
    """How many equal scores stand before the item's place, in the window that this lies in."""
    _, count, width = windows.shape
    which = jnp.minimum(before // width, count - 1)
    rows = row + jnp.arange(len(limits))[:, None]
    scores = windows.at[rows, which].get(mode="promise_in_bounds")
    ahead = width * which[..., None] + jnp.arange(width) < before[..., None]
    # Where the place is the end of the chunk, the last window has been counted whole.
    ahead &= (before < width * count)[..., None]
    return ((scores == limits[..., None]) & ahead).sum(2, dtype=jnp.int32)


def next_below(x: Float32[Array, "..."]) -> Float32[Array, "..."]:
    """The next float32 below; below zero, and what is as good as zero, it is -`_TINY`."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    below = jax.lax.bitcast_convert_type(jnp.where(x > 0, bits - 1, bits + 1), jnp.float32)
    return jnp.where(jnp.abs(x) < _TINY, -_TINY, below)
