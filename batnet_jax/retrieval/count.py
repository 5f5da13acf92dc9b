"""A tile: the scores of a block of queries and a chunk of the gallery, and what is read off them.

The rank of a relevant item is 1 + the number of items ahead of it, so nothing has to be sorted.
Ahead is what has a greater score, or an equal one and a lower gallery index. A chunk is in gallery
order, so the latter are the columns before some position. For those, "as great or greater" is
"greater than the next float below".
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from batnet_jax.retrieval.plan import ROWS, SLOTS, lanes

# The least positive float32 of full precision. Below it accelerators take numbers for zero.
_TINY = float(jnp.finfo(jnp.float32).tiny)


def tile_scores(
    queries: Float[Array, "b d"], chunk: Float[Array, "d n"], offset: Float32[Array, " n"]
) -> Float32[Array, "b n"]:
    """Inner products plus an offset for each gallery item, summed in float32.

    `precision=HIGHEST`: TF32 or bfloat16 passes would change ranks.
    """
    scores = jnp.matmul(
        queries,
        chunk,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return scores + offset


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
    active: Bool[Array, " b"],
    work: Int32[Array, "steps 2"],
    steps: Int32[Array, ""],
) -> Int32[Array, "b page"]:
    """Adds to `counts` how many of the tile's items stand ahead of each relevant one.

    A step does so for `ROWS` queries and `SLOTS` relevant items of each; the steps leave out the
    empty parts of a page. The sum over a chunk is unrolled: as elementwise sums of slices it stays
    in registers, where XLA's CPU backend writes out the comparisons of a plain `sum` (3 to 8 times
    slower).

    Args:
      scores: of the tile.
      items: which of the wanted items; -1 where there is none.
      limits: their scores.
      counts: so far.
      columns: how many of the chunk's items have a lower gallery index, for each wanted item.
      active: the queries to count for.
      work: the first row and column of the page that each step takes.
      steps: how many there are.
    """
    rows, width = min(ROWS, len(scores)), lanes(scores.shape[1])
    limits = jnp.where(active[:, None] & (items >= 0), limits, jnp.inf)
    before = columns[items]

    def step(number: Int32[Array, ""], counts: Array) -> Array:
        row, column = work[number, 0], work[number, 1]

        def part(array: Array, first: Array | int, width: int) -> Array:
            return jax.lax.dynamic_slice(array, (row, jnp.int32(first)), (rows, width))

        greater = part(limits, column, SLOTS)[:, None]
        as_great = _next_below(greater)
        left = part(before, column, SLOTS)[:, None] - jnp.arange(width)[:, None]
        ahead = jnp.zeros((rows, width, SLOTS), jnp.int32)
        for start in range(0, scores.shape[1], width):
            limit = jnp.where(left > start, as_great, greater)  # for lower and higher indices
            ahead += (part(scores, start, width)[:, :, None] > limit).astype(jnp.int32)
        more = part(counts, column, SLOTS) + ahead.sum(1, dtype=jnp.int32)
        return jax.lax.dynamic_update_slice(counts, more, (row, column))

    return jax.lax.fori_loop(0, steps, step, counts)


def _next_below(x: Float32[Array, "..."]) -> Float32[Array, "..."]:
    """The next float32 below; below zero, and what is as good as zero, it is -`_TINY`."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    below = jax.lax.bitcast_convert_type(jnp.where(x > 0, bits - 1, bits + 1), jnp.float32)
    return jnp.where(jnp.abs(x) < _TINY, -_TINY, below)
