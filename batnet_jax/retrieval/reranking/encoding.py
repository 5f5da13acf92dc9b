"""Items described by their k-reciprocal neighbours, as sparse vectors, on the host.

Zhong, Zheng, Cao and Li, "Re-ranking Person Re-identification with k-reciprocal Encoding",
CVPR 2017, Sec. 3.2 to 3.4; what the paper leaves open is as in the authors' code.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64
from scipy import sparse

from batnet_jax.retrieval.reranking.neighbours import nearest_and_farthest, pair_distances

_COMPARED_AT_ONCE = 2**19


class Encoding(NamedTuple):
    """See `encode`."""

    vectors: sparse.csr_array  # [n, n] float32, rows sum to 1
    farthest: Float32[np.ndarray, " n"]


def encode(
    features: Float32[np.ndarray, "n d"],
    *,
    k1: int,
    k2: int,
    progress: Callable[[int, int], None] | None = None,
) -> Encoding:
    """The vector of each item: how strongly each other item is a reciprocal neighbour of it.

    A neighbour weighs exp(-d), d its squared distance over that of the item's farthest; the weights
    of an item sum to 1 (Eq. 7). The vector is then the mean of those of the item and its next
    k2 - 1 neighbours (Eq. 11).

    Args:
      features: n items.
      k1: how many neighbours, the item itself not counted; where k1 >= n all are.
      k2: how many vectors a mean has.
      progress: called as progress(steps done, steps in all).

    Returns: the vectors, and the squared distance of the farthest from each item.
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

    alike = nearest[:, :k2]
    share = np.full(alike.size, 1 / alike.shape[1], np.float32)
    starts = np.arange(num_items + 1) * alike.shape[1]
    mean = sparse.csr_array((share, alike.ravel(), starts), shape=shape)
    return Encoding(sparse.csr_array(mean @ vectors), farthest)


def expanded_sets(
    nearest: Int32[np.ndarray, "n k"], k1: int
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """R*(p, k1) of each item p (Eq. 5).

    That is R(p, k1), and R(q, k1 / 2) of each q in R(p, k1) more than two thirds of which lie in
    R(p, k1); a half of k1 is rounded to the even number. The paper says "at least two thirds", the
    authors' code takes more.

    Args:
      nearest: of each item the nearest, itself first.
      k1: see `encode`.

    Returns: pairs of an item and a member of its set, in order.
    """
    whole = nearest[:, : k1 + 1]
    half = nearest[:, : round(k1 / 2) + 1]
    in_half = np.where(_is_mutual(half), half, -2)  # -1 and -2: nobody
    in_whole = np.where(_is_mutual(whole), whole, -1)
    half_sizes = (in_half >= 0).sum(1)
    keys = []
    step = _items_at_once(whole)
    for start in range(0, len(nearest), step):
        own = in_whole[start : start + step]
        offered = in_half[own]
        shared = np.zeros(offered.shape, bool)
        for member in own.T:
            shared |= offered == member[:, None, None]
        taken = (own >= 0) & (3 * shared.sum(2) > 2 * half_sizes[own])
        offered = np.where(taken[:, :, None], offered, -1).reshape(len(own), -1)
        members = np.concatenate([own, offered], axis=1).astype(np.int64)
        of_item = np.arange(start, start + len(own))[:, None] * len(nearest)
        keys.append(np.unique((of_item + members)[members >= 0]))
    return np.divmod(np.concatenate(keys), len(nearest))


def _is_mutual(nearest: Int32[np.ndarray, "n k"]) -> Bool[np.ndarray, "n k"]:
    """Whether each item is also in the list of its neighbour: R(p, k), Eq. 3."""
    mutual = np.empty(nearest.shape, bool)
    step = _items_at_once(nearest)
    for start in range(0, len(nearest), step):
        part = slice(start, start + step)
        own = np.arange(len(nearest))[part, None, None]
        mutual[part] = (nearest[nearest[part]] == own).any(2)
    return mutual


def _items_at_once(nearest: Int32[np.ndarray, "n k"]) -> int:
    """So many that the lists of all their neighbours fit into the cache."""
    return max(1, _COMPARED_AT_ONCE // nearest.shape[1] ** 2)
