"""`count.count_ahead` as a TPU kernel in Pallas, which takes each score from memory once.

A program of the kernel holds the scores of eight queries in fast memory, where XLA's sums read the
tile again for each step of eight relevant items. The program does no work for steps that are empty
in its own queries, and asks which columns lie before a tie only in rounds that contain one.
`benchmarks/tpu_count.py` counts the instructions of both.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float32, Int32

from batnet_jax.retrieval.streaming.count import next_below
from batnet_jax.retrieval.streaming.tiling import STEP_SLOTS

ROWS = 8  # queries of a program: the rows of a register
_LANES = 128  # columns of a register
_ROUND = 16 * _LANES  # columns of one round of the loop
_BITS = 32  # bits of an integer; round r has bit r % 32
_WIDEST = 2**16  # columns of a tile that fit a program's memory twice; wider tiles are cut


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
    for first in range(0, scores.shape[1], _WIDEST):
        part = scores[:, first : first + _WIDEST]
        here = columns - first, jnp.clip(num_items - first, 0, part.shape[1])
        counts = _count_part(part, items, thresholds, counts, *here, active)
    return counts


def _count_part(
    scores: Float32[Array, "b n"],
    items: Int32[Array, "b page"],
    thresholds: Float32[Array, "b page"],
    counts: Int32[Array, "b page"],
    columns: Int32[Array, " w"],
    num_items: Int32[Array, ""],
    active: Bool[Array, " b"],
) -> Int32[Array, "b page"]:
    """`count_ahead` for some columns of a tile; tie columns before the first mean no column."""
    (rows, page), n = items.shape, scores.shape[1]
    groups = pl.cdiv(rows, ROWS)
    is_filled = active[:, None] & (items >= 0)
    thresholds = jnp.where(is_filled, thresholds, jnp.inf)
    ties = jnp.where(is_filled, jnp.clip(columns[items], 0, n), 0)

    def by_step(values: Array) -> Array:
        """Return the values of the eight rows of each group in each step."""
        padded = jnp.pad(values, ((0, groups * ROWS - rows), (0, 0)))
        steps = padded.reshape(groups, ROWS, page // STEP_SLOTS, STEP_SLOTS)
        return steps.swapaxes(1, 2).reshape(groups, page // STEP_SLOTS, ROWS * STEP_SLOTS)

    num_steps = by_step(is_filled).any(2).sum(1, dtype=jnp.int32)
    bit = jnp.left_shift(jnp.int32(1), ties // _ROUND % _BITS)
    bits = by_step(jnp.where(ties % _ROUND > 0, bit, 0))
    mixed = jax.lax.reduce(bits, jnp.int32(0), jax.lax.bitwise_or, (2,))
    block = lambda length: pl.BlockSpec((ROWS, length), lambda group, *_: (group, 0))  # noqa: E731
    ahead = pl.pallas_call(
        functools.partial(_kernel, n),
        out_shape=jax.ShapeDtypeStruct((rows, page), jnp.int32),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(groups,),
            in_specs=[block(pl.cdiv(n, _LANES) * _LANES), block(page), block(page)],
            out_specs=block(page),
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),  # v4's two cores
        interpret=jax.default_backend() != "tpu",  # for tests
        name="count_ahead",
    )(num_items[None].astype(jnp.int32), num_steps, mixed, scores, thresholds, ties)
    return counts + ahead


def _kernel(
    n: int, num_items_ref, num_steps_ref, mixed_ref, scores_ref, thresholds_ref, ties_ref, ahead_ref
) -> None:
    """Count for eight rows, `STEP_SLOTS` slots at a time; slots of empty steps are 0."""
    group = pl.program_id(0)
    page_lane = jax.lax.broadcasted_iota(jnp.int32, ahead_ref.shape, 1)
    lane = jax.lax.broadcasted_iota(jnp.int32, (ROWS, _LANES), 1)
    thresholds, ties = thresholds_ref[...], ties_ref[...]
    below = next_below(thresholds)

    def spread(values: Array, slot: Array, least: float) -> Array:
        """Return one slot's value of each row in all lanes of a register."""
        one = jnp.max(jnp.where(page_lane == slot, values, least), axis=1, keepdims=True)
        return jnp.broadcast_to(one, (ROWS, _LANES))

    def count_step(step: Array, ahead: Array) -> Array:
        slots = [step * STEP_SLOTS + k for k in range(STEP_SLOTS)]
        bounds = [
            (
                spread(ties, slot, -1),
                spread(below, slot, -jnp.inf),
                spread(thresholds, slot, -jnp.inf),
            )
            for slot in slots
        ]

        def count_round(number: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
            start = pl.multiple_of(number * _ROUND, _ROUND)
            # Outside of the tie columns a row has one bound for all columns of a round.
            whole = [jnp.where(tie > start, equal, above) for tie, equal, above in bounds]
            is_mixed = (mixed_ref[group, step] >> (number % _BITS)) & 1
            return jax.lax.cond(
                is_mixed > 0,
                lambda: _count(scores_ref, start, _ROUND, sums, lane, bounds),
                lambda: _count(scores_ref, start, _ROUND, sums, lane, whole),
            )

        zeros = (jnp.zeros((ROWS, _LANES), jnp.int32),) * STEP_SLOTS
        sums = jax.lax.fori_loop(jnp.int32(0), jnp.int32(n // _ROUND), count_round, zeros)
        sums = _count(scores_ref, n // _ROUND * _ROUND, n % _ROUND, sums, lane, bounds)
        for slot, total in zip(slots, sums, strict=True):
            number = jnp.sum(total, axis=1, keepdims=True, dtype=jnp.int32)
            ahead = jnp.where(page_lane == slot, number, ahead)
        return ahead

    empty = jnp.zeros(ahead_ref.shape, jnp.int32)
    ahead = jax.lax.fori_loop(jnp.int32(0), num_steps_ref[group], count_step, empty)
    # The padding behind the items scores 0, which is above a threshold below 0.
    padding = n - num_items_ref[0]
    ahead_ref[...] = ahead - jnp.where(thresholds < 0.0, padding, 0)


def _count(
    scores_ref: Any,
    start: Any,
    length: int,
    sums: tuple[Array, ...],
    lane: Array,
    bounds: Sequence[Any],
) -> tuple[Array, ...]:
    """Add the numbers of scores above some bounds, lane by lane.

    Args:
      scores_ref: of eight rows.
      start: the first column.
      length: number of columns; what lies behind them in the last register does not count.
      sums: so far, one register for each bound.
      lane: the number of each lane.
      bounds: registers; or (tie, equal, above), where columns before `tie` have the bound `equal`.
    """
    for first in range(0, length, _LANES):
        at = pl.multiple_of(start + first, _LANES)
        scores = scores_ref[:, pl.ds(at, _LANES)]
        if length - first < _LANES:
            scores = jnp.where(lane < length - first, scores, -jnp.inf)
        is_above = [
            scores
            > (jnp.where(lane + at < bound[0], *bound[1:]) if isinstance(bound, tuple) else bound)
            for bound in bounds
        ]
        sums = tuple(s + above.astype(jnp.int32) for s, above in zip(sums, is_above, strict=True))
    return sums
