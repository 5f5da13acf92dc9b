"""`count.count_ahead` as a GPU kernel in Pallas, which reads each score once.

A program of the kernel loads some columns of one row of the tile into registers and compares them
with all relevant items of that row. It does no work for empty slots. XLA's sums, in contrast, take
eight slots at a time, as often as the row with the most relevant items needs, and read all scores
again each time. `benchmarks/evaluator_gpu.py` times both.
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
    thresholds: Float32[Array, "b page"],
    counts: Int32[Array, "b page"],
    columns: Int32[Array, " w"],
    num_items: Int32[Array, ""],
    active: Bool[Array, " b"],
) -> Int32[Array, "b page"]:
    """Add to `counts` the number of the tile's items ahead of each relevant item.

    `count.count_ahead` describes the arguments. The filled slots of a row are its first.
    """
    rows, page = items.shape
    num_filled = jnp.where(active, (items >= 0).sum(1, dtype=jnp.int32), 0)
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
    )(scores, thresholds, columns[items], num_filled, num_items[None])
    is_filled = jnp.arange(page) < num_filled[:, None]
    return counts + jnp.where(is_filled, ahead.sum(0, dtype=jnp.int32), 0)


def _kernel(
    scores_ref, thresholds_ref, tie_columns_ref, num_filled_ref, num_items_ref, ahead_ref
) -> None:
    """Count in `_COLUMNS` columns of one row; slots behind the filled ones are not written."""
    start = pl.program_id(1) * _COLUMNS
    column = jax.lax.iota(jnp.int32, _COLUMNS)
    is_item = start + column < num_items_ref[0]
    scores = triton.load(scores_ref, mask=is_item, other=-jnp.inf)

    def count(slot: Array, _: None) -> None:
        threshold, tie_column = thresholds_ref[slot], tie_columns_ref[slot] - start
        below = next_below(threshold)

        def count_above(bound: Array) -> Array:
            return jnp.sum((scores > bound).astype(jnp.int32), dtype=jnp.int32)

        ahead_ref[slot] = jax.lax.cond(
            (tie_column > 0) & (tie_column < _COLUMNS),
            lambda: count_above(jnp.where(column < tie_column, below, threshold)),
            lambda: count_above(jnp.where(tie_column > 0, below, threshold)),
        )

    jax.lax.fori_loop(0, num_filled_ref[0], count, None)
