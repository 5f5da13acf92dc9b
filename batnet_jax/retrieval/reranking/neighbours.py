"""The nearest items of each item of a set, and the distance of its farthest item."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, Int64

from batnet_jax.retrieval.scores import block_scores, pad_block
from batnet_jax.retrieval.search import Best, empty_best, merge_best

_TILE_SIDE = 4096
_PAIRS_AT_ONCE = 2**10


class _Neighbours(NamedTuple):
    """The neighbours found so far of a block of items."""

    best: Best
    lowest: Float32[Array, " b"]  # the score of the farthest item


@jax.jit
def _tile_scores(
    rows: tuple[Array, Array], offsets: tuple[Float32[Array, " a"], Float32[Array, " b"]]
) -> Float32[Array, "a b"]:
    """Return the squared distances of two blocks' items, times -1/2; -inf in padding."""
    return block_scores(*rows, offsets[1]) + offsets[0][:, None]


@functools.partial(jax.jit, static_argnames="axis")
def _update(neighbours: _Neighbours, scores: Array, first: Array, *, axis: int) -> _Neighbours:
    """Return the neighbours after further items, along `axis` of `scores`, the first at `first`."""
    lowest = jnp.where(scores == -jnp.inf, jnp.inf, scores).min(axis)
    best = merge_best(neighbours.best, scores, first, axis=axis)
    return _Neighbours(best, jnp.minimum(neighbours.lowest, lowest))


def nearest_and_farthest(
    features: Float32[np.ndarray, "n d"],
    k: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Int32[np.ndarray, "n k"], Float32[np.ndarray, " n"]]:
    """Return the k nearest items of each item, and the squared distance of its farthest item.

    Distances are Euclidean. Each item is the first in its own list, even if others are equal to it.
    The others are ordered by distance, equal distances by index.

    Args:
      features: of n >= 1 items.
      k: at most n.
      progress: called as progress(tiles done, tiles in all).

    Returns: indices [n, k]; squared distances [n].
    """
    num_items = len(features)
    side = min(_TILE_SIDE, num_items)
    firsts = [np.int32(first) for first in range(0, num_items, side)]
    rows, offsets = _put_blocks(features, side)
    found = [_Neighbours(empty_best(side, k), jnp.full(side, jnp.inf, jnp.float32)) for _ in firsts]
    # A tile serves both of its blocks. In this order each block meets the others by index.
    tiles = [(a, b) for a in range(len(firsts)) for b in range(a, len(firsts))]
    last = None
    for done, (a, b) in enumerate(tiles, start=1):
        scores = _tile_scores((rows[a], rows[b]), (offsets[a], offsets[b]))
        jax.block_until_ready(last)  # one tile is computed while the one before is merged
        found[a] = _update(found[a], scores, firsts[b], axis=1)
        if a != b:
            found[b] = _update(found[b], scores, firsts[a], axis=0)
        last = found[a], found[b]
        if progress is not None:
            progress(done, len(tiles))
    nearest = np.concatenate([block.best.items for block in found])[:num_items]
    lowest = np.concatenate([block.lowest for block in found])[:num_items]
    return _own_first(nearest), np.maximum(-2 * lowest, 0)


def _put_blocks(
    features: Float32[np.ndarray, "n d"], side: int
) -> tuple[list[Float32[Array, "side d"]], list[Float32[Array, " side"]]]:
    """Put blocks of `side` items on the device: their features, and -|f|^2 / 2 as offsets.

    Padding has the offset -inf.
    """
    squares = np.einsum("nd,nd->n", features, features, dtype=np.float64)
    rows, offsets = [], []
    for first in range(0, len(features), side):
        part = slice(first, first + side)
        missing = side - len(squares[part])
        rows.append(jax.device_put(pad_block(features[part], side)))
        offset = np.pad(-0.5 * squares[part], (0, missing), constant_values=-np.inf)
        offsets.append(jax.device_put(offset.astype(np.float32)))
    return rows, offsets


def _own_first(nearest: Int32[np.ndarray, "n k"]) -> Int32[np.ndarray, "n k"]:
    """Move each item to the front of its list, in place of the last if the list lacks the item."""
    own = np.arange(len(nearest), dtype=np.int32)[:, None]
    is_own = nearest == own
    position = np.where(is_own.any(1), is_own.argmax(1), nearest.shape[1] - 1)[:, None]
    column = np.arange(nearest.shape[1])
    moved = np.where(column <= position, np.roll(nearest, 1, axis=1), nearest)
    moved[:, :1] = own
    return moved


def pair_distances(
    features: Float32[np.ndarray, "n d"],
    first: Int64[np.ndarray, " m"],
    second: Int64[np.ndarray, " m"],
) -> Float32[np.ndarray, " m"]:
    """Return the squared distance of each pair of items (first[i], second[i])."""
    squared = np.empty(len(first), np.float32)
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        differences = features[first[part]]
        differences -= features[second[part]]
        squared[part] = np.einsum("nd,nd->n", differences, differences)
    return squared
