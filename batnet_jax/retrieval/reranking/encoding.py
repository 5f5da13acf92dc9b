"""Encodings of items by their k-reciprocal neighbours, as sparse vectors, on the host.

Zhong, Zheng, Cao and Li, "Re-ranking Person Re-identification with k-reciprocal Encoding",
CVPR 2017, Sec. 3.2 to 3.4. Details that the paper leaves open follow the authors' code.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64
from scipy import sparse

from batnet_jax.retrieval.reranking.neighbours import nearest_and_farthest, pair_distances

_COMPARED_AT_ONCE = 2**19


class Encoding(NamedTuple):
    """The encodings of n items; see `encode`."""

    vectors: sparse.csr_array  # [n, n] float32, rows sum to 1
    farthest: Float32[np.ndarray, " n"]  # the squared distance of each item's farthest item


def encode(
    features: Float32[np.ndarray, "n d"],
    *,
    k1: int,
    k2: int,
    progress: Callable[[int, int], None] | None = None,
) -> Encoding:
    """Encode each item by the weights of its reciprocal neighbours.

    A neighbour's weight is exp(-d), where d is its squared distance, divided by the squared
    distance of the item's farthest item. The weights of an item are scaled to sum to 1 (Eq. 7).
    Then each vector is replaced by the mean of the vectors of the item and its k2 - 1 nearest
    neighbours (Eq. 11).

    Args:
      features: of n items.
      k1: neighbours of an item, without the item itself; if k1 >= n all items.
      k2: vectors in each mean.
      progress: called as progress(steps done, steps in all).
    """
    num_items = len(features)
    k = min(max(k1 + 1, k2), num_items)
    nearest, farthest = nearest_and_farthest(features, k, progress)
    items, members = expanded_sets(nearest, k1)
    distances = pair_distances(features, items, members)
    distances /= np.where(farthest == 0, 1, farthest)[items]
    weights = np.exp(-distances)
    weights /= np.bincount(items, weights)[items]
    ends = np.cumsum(np.bincount(items, minlength=num_items))
    shape = (num_items, num_items)
    vectors = sparse.csr_array((weights, members, np.concatenate([[0], ends])), shape=shape)

    averaged = nearest[:, :k2]
    share = np.full(averaged.size, 1 / averaged.shape[1], np.float32)
    starts = np.arange(num_items + 1) * averaged.shape[1]
    mean = sparse.csr_array((share, averaged.ravel(), starts), shape=shape)
    return Encoding(sparse.csr_array(mean @ vectors), farthest)


def expanded_sets(
    nearest: Int32[np.ndarray, "n k"], k1: int
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """Return the set R*(p, k1) of each item p (Eq. 5).

    R(p, k) holds the items among p's k nearest that have p among their own k nearest. R*(p, k1) is
    R(p, k1) together with each R(q, k1 / 2), q in R(p, k1), that has more than two thirds of its
    members in R(p, k1). The paper says "at least two thirds"; the authors' code requires more.
    k1 / 2 is rounded, halves to the even number.

    Args:
      nearest: the nearest items of each item, itself first.
      k1: see `encode`.

    Returns: (item, member of the item's set) for all members, sorted.
    """
    whole = nearest[:, : k1 + 1]
    half = nearest[:, : round(k1 / 2) + 1]
    in_half = np.where(_is_mutual(half), half, -2)  # -1 and -2: no item; they never match
    in_whole = np.where(_is_mutual(whole), whole, -1)
    half_sizes = (in_half >= 0).sum(1)
    keys = []
    step = _items_at_once(whole)
    for start in range(0, len(nearest), step):
        own = in_whole[start : start + step]
        candidates = in_half[own]
        shared = np.zeros(candidates.shape, bool)
        for member in own.T:
            shared |= candidates == member[:, None, None]
        is_taken = (own >= 0) & (3 * shared.sum(2) > 2 * half_sizes[own])
        added = np.where(is_taken[:, :, None], candidates, -1).reshape(len(own), -1)
        members = np.concatenate([own, added], axis=1).astype(np.int64)
        of_item = np.arange(start, start + len(own))[:, None] * len(nearest)
        keys.append(np.unique((of_item + members)[members >= 0]))
    return np.divmod(np.concatenate(keys), len(nearest))


def _is_mutual(nearest: Int32[np.ndarray, "n k"]) -> Bool[np.ndarray, "n k"]:
    """Return whether each neighbour has the item in its own list: R(p, k), Eq. 3."""
    mutual = np.empty(nearest.shape, bool)
    step = _items_at_once(nearest)
    for start in range(0, len(nearest), step):
        part = slice(start, start + step)
        own = np.arange(len(nearest))[part, None, None]
        mutual[part] = (nearest[nearest[part]] == own).any(2)
    return mutual


def _items_at_once(nearest: Int32[np.ndarray, "n k"]) -> int:
    """Return a number of items whose neighbours' lists fit into the CPU's cache together."""
    return max(1, _COMPARED_AT_ONCE // nearest.shape[1] ** 2)
