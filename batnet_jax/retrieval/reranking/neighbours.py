"""The nearest of a set's items to each of them, and how far the farthest is."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, Int64

from batnet_jax.retrieval.scores import block_scores, pad_block
from batnet_jax.retrieval.search import Best, nothing_yet, take_in

_SIDE = 4096  # of a square tile
_PAIRS_AT_ONCE = 2**10


class _Seen(NamedTuple):
    """What is known of the items of a block."""

    best: Best
    least: Float32[Array, " b"]


@jax.jit
def _meet(
    rows: tuple[Array, Array], offsets: tuple[Float32[Array, " a"], Float32[Array, " b"]]
) -> Float32[Array, "a b"]:
    """Minus half the squared distances; -inf to what fills up a block."""
    return block_scores(*rows, offsets[1]) + offsets[0][:, None]


@functools.partial(jax.jit, static_argnames="axis")
def _look(seen: _Seen, scores: Array, first: Array, *, axis: int) -> _Seen:
    """`seen` after the items from `first` on, which are those along `axis`."""
    least = jnp.where(scores == -jnp.inf, jnp.inf, scores).min(axis)
    return _Seen(take_in(seen.best, scores, first, axis=axis), jnp.minimum(seen.least, least))


def nearest_and_farthest(
    features: Float32[np.ndarray, "n d"],
    k: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Int32[np.ndarray, "n k"], Float32[np.ndarray, " n"]]:
    """The k items nearest to each, and the squared distance of the farthest.

    Distances are Euclidean. An item is the first of its own list, even where others are equal to
    it; the rest are ordered by distance, equal ones by index.

    Args:
      features: n items, one at least.
      k: at most n.
      progress: called as progress(tiles done, tiles in all).

    Returns: indices [n, k]; squared distances [n].
    """
    num_items = len(features)
    side = min(_SIDE, num_items)
    firsts = [np.int32(first) for first in range(0, num_items, side)]
    squares = np.einsum("nd,nd->n", features, features, dtype=np.float64)
    rows, offsets = [], []
    for first in firsts:
        part = slice(first, first + side)
        missing = side - len(squares[part])
        rows.append(jax.device_put(pad_block(features[part], side)))
        offset = np.pad(-0.5 * squares[part], (0, missing), constant_values=-np.inf)
        offsets.append(jax.device_put(offset.astype(np.float32)))
    seen = [_Seen(nothing_yet(side, k), jnp.full(side, jnp.inf, jnp.float32)) for _ in firsts]
    tiles = [(a, b) for a in range(len(firsts)) for b in range(a, len(firsts))]
    last = None
    for done, (a, b) in enumerate(tiles, start=1):
        # In this order every block meets the others in the order of their items. A tile serves
        # both of its blocks; the next is under way while a core looks at this one.
        scores = _meet((rows[a], rows[b]), (offsets[a], offsets[b]))
        jax.block_until_ready(last)
        seen[a] = _look(seen[a], scores, firsts[b], axis=1)
        if a != b:
            seen[b] = _look(seen[b], scores, firsts[a], axis=0)
        last = seen[a], seen[b]
        if progress is not None:
            progress(done, len(tiles))
    nearest = np.concatenate([s.best.items for s in seen])[:num_items]
    least = np.concatenate([s.least for s in seen])[:num_items]
    return _own_first(nearest), np.maximum(-2 * least, 0)


def _own_first(nearest: Int32[np.ndarray, "n k"]) -> Int32[np.ndarray, "n k"]:
    """Each item moved to the front of its list; where it is not in it, the last makes room."""
    own = np.arange(len(nearest), dtype=np.int32)[:, None]
    is_own = nearest == own
    place = np.where(is_own.any(1), is_own.argmax(1), nearest.shape[1] - 1)[:, None]
    column = np.arange(nearest.shape[1])
    moved = np.where(column <= place, np.roll(nearest, 1, axis=1), nearest)
    moved[:, :1] = own
    return moved


def pair_distances(
    features: Float32[np.ndarray, "n d"],
    first: Int64[np.ndarray, " m"],
    second: Int64[np.ndarray, " m"],
) -> Float32[np.ndarray, " m"]:
    """The squared distances of the pairs of items `first` and `second`."""
    squared = np.empty(len(first), np.float32)
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        differences = features[first[part]]
        differences -= features[second[part]]
        squared[part] = np.einsum("nd,nd->n", differences, differences)
    return squared
