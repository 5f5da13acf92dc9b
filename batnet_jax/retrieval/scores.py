"""Scores of queries against gallery items; a greater score means more similar.

`top_k`, verification, single-shot CMC and re-ranking all use this arithmetic.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32

# Scores of one block; its users keep a handful of arrays of this many 4-byte numbers.
_SCORES_IN_MEMORY = 2**24
_LARGEST_BLOCK = 1024
LARGE = 1e30  # squared lengths between 1 / LARGE and LARGE stay in the range of float32


def block_size(num_query: int, num_gallery: int) -> int:
    """Choose how many queries to take at a time, so that block x gallery stays bounded."""
    return max(1, min(num_query, _LARGEST_BLOCK, _SCORES_IN_MEMORY // num_gallery))


def unit_length(features: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Divide each row by its Euclidean length; a row of zeros stays zeros.

    The lengths are float64, because squares of very small or large features leave float32's range.
    """
    squares = np.einsum("nd,nd->n", features, features, dtype=np.float64)
    is_unsafe = (squares != 0) & ~((squares > 1 / LARGE) & (squares < LARGE))
    if is_unsafe.any():
        features = rescale_rows(features, is_unsafe)
        squares[is_unsafe] = np.square(features[is_unsafe], dtype=np.float64).sum(1)
    lengths = np.sqrt(np.where(squares == 0, 1, squares))
    return features / lengths.astype(np.float32)[:, None]


def row_lengths(
    rows: Float32[Array, "n d"],
) -> tuple[Float32[Array, " n"], Bool[Array, " n"]]:
    """Return the Euclidean length of each row, and whether float32 represents the length.

    The length of a row of zeros is given as 1. Zeros are recognised by their bits, because devices
    treat the smallest numbers as zeros. A row with NaN has no length that float32 represents.
    """
    squares = jnp.sum(jnp.square(rows), axis=1)
    bits = jax.lax.bitcast_convert_type(rows, jnp.int32) & 0x7FFFFFFF  # without the sign
    is_zero = jnp.max(bits, axis=1) == 0
    is_safe = is_zero | ((squares > 1 / LARGE) & (squares < LARGE))
    return jnp.sqrt(jnp.where(is_zero, 1, squares)), is_safe


def rescale_rows(
    rows: Float32[np.ndarray, "n d"], which: Bool[np.ndarray, " n"]
) -> Float32[np.ndarray, "n d"]:
    """Return a copy in which some rows are multiplied by a power of two, to a length near 1."""
    rows = rows.copy()
    _, exponents = np.frexp(np.abs(rows[which]).max(axis=1, keepdims=True))
    rows[which] = np.ldexp(rows[which], -exponents)
    return rows


def block_scores(
    query: Float32[Array, "b d"],
    gallery: Float32[Array, "g d"],
    offset: Float32[Array, " g"],
    length: Float32[Array, " g"] | None = None,
) -> Float32[Array, "b g"]:
    """Return (inner product + offset of the gallery item) / length of the gallery item.

    `precision=HIGHEST`, because TF32 or bfloat16 passes would change ranks. -0 becomes +0, because
    a sort or top-k by bits would separate the two, which are equal scores.
    """
    scores = jnp.matmul(query, gallery.T, precision=jax.lax.Precision.HIGHEST) + offset
    scores = scores if length is None else scores / length
    return jnp.where(scores == 0, 0.0, scores)


_block_scores = jax.jit(block_scores)


def pad_block(array: np.ndarray, block: int, fill: int = 0) -> np.ndarray:
    """Extend an array along its first axis to `block` rows; new rows hold `fill`."""
    missing = [(0, block - len(array))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, missing, constant_values=fill)


def iterate_scores(
    query: Float32[np.ndarray, "q d"],
    gallery: Float32[np.ndarray, "g d"],
    *,
    metric: str,
    block: int,
) -> Iterator[tuple[slice, Float32[Array, "b g"]]]:
    """Yield (slice of queries, their scores on the device), `block` queries at a time.

    All blocks have the same shape and are compiled once: the last block is padded with queries of
    zeros, and the caller drops their rows.

    Args:
      query: [q, d] features as given.
      gallery: [g, d] features as given.
      metric: "cosine": the inner product of the features brought to unit length. "euclidean":
        q.g - |g|^2 / 2, which decreases as the distance to the query increases.
      block: queries at a time.
    """
    if metric == "cosine":
        query, gallery = unit_length(query), unit_length(gallery)
        offset = np.zeros(len(gallery), np.float32)
    else:
        offset = -0.5 * np.einsum("nd,nd->n", gallery, gallery, dtype=np.float64)
    on_device = jax.device_put(gallery), jax.device_put(offset.astype(np.float32))
    for start in range(0, len(query), block):
        which = slice(start, min(start + block, len(query)))
        yield which, _block_scores(pad_block(query[which], block), *on_device)


def minus_distances(
    query: Float32[np.ndarray, "b d"], scores: Float32[np.ndarray, "b g"]
) -> np.ndarray:
    """Turn scores q.g - |g|^2 / 2 into -|q - g|, float64 [b, g]."""
    squares = np.einsum("nd,nd->n", query, query, dtype=np.float64)
    return -np.sqrt(np.maximum(squares[:, None] - 2.0 * scores, 0))
