"""`count.count_ahead` as a kernel for GPUs, in Pallas: each score is read once.

A program takes some columns of one row of the tile, and keeps them in its registers while it goes
through the row's relevant items. So it counts for those that there are; XLA's sums go through eight
items at a time, for as many as any row of the block has, and read and compare all scores anew for
each eight. `benchmarks/evaluator_gpu.py` times both.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float32, Int32

from batnet_jax.retrieval.streaming.count import next_below

_COLUMNS = 1024  # of a program, which is one warp: 32 scores a thread


def count_ahead(
    scores: Float32[Array, "b n"],
    items: Int32[Array, "b page"],
    limits: Float32[Array, "b page"],
    counts: Int32[Array, "b page"],
    columns: Int32[Array, " w"],
    filled: Int32[Array, ""],
    active: Bool[Array, " b"],
) -> Int32[Array, "b page"]:
    """Adds to `counts` how many of the tile's items stand ahead of each relevant one.

    The arguments are those of `count.count_ahead`; a row's items are the first of its page.
    """
    rows, page = items.shape
    numbers = jnp.where(active, (items >= 0).sum(1, dtype=jnp.int32), 0)
    parts = pl.cdiv(scores.shape[1], _COLUMNS)
    by_row = lambda row, part: (row, 0)  # noqa: E731
    ahead = pl.pallas_call(
        _kernel,
        out_shape=jax.ShapeDtypeStruct((parts, rows, page), jnp.int32),
        grid=(rows, parts),
        in_specs=[
            pl.BlockSpec((None, _COLUMNS), lambda row, part: (row, part)),
            pl.BlockSpec((None, page), by_row),
            pl.BlockSpec((None, page), by_row),
            pl.BlockSpec((1,), lambda row, part: (row,)),
            pl.BlockSpec((1,), lambda row, part: (0,)),
        ],
        out_specs=pl.BlockSpec((None, None, page), lambda row, part: (part, row, 0)),
        compiler_params=triton.CompilerParams(num_warps=1, num_stages=1),
        interpret=jax.default_backend() != "gpu",  # for tests
        name="count_ahead",
    )(scores, limits, columns[items], numbers, filled[None])
    return counts + jnp.where(jnp.arange(page) < numbers[:, None], ahead.sum(0, dtype=jnp.int32), 0)


def _kernel(scores_ref, limits_ref, before_ref, number_ref, filled_ref, ahead_ref) -> None:
    """One row, `_COLUMNS` of its columns; what is behind the last item is left as it is."""
    start = pl.program_id(1) * _COLUMNS
    column = jax.lax.iota(jnp.int32, _COLUMNS)
    inside = start + column < filled_ref[0]
    scores = triton.load(scores_ref, mask=inside, other=-jnp.inf)

    def count(slot: Array, _: None) -> None:
        limit, place = limits_ref[slot], before_ref[slot] - start
        below = next_below(limit)

        def ahead_of(bound: Array) -> Array:
            return jnp.sum((scores > bound).astype(jnp.int32), dtype=jnp.int32)

        ahead_ref[slot] = jax.lax.cond(
            (place > 0) & (place < _COLUMNS),
            lambda: ahead_of(jnp.where(column < place, below, limit)),
            lambda: ahead_of(jnp.where(place > 0, below, limit)),
        )

    jax.lax.fori_loop(0, number_ref[0], count, None)
