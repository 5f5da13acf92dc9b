"""Scores of a block of queries against the whole gallery: greater is more alike.

The scores are the one thing that ranking and search share, so that both order alike.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32

# Scores a block may hold at once; ranking keeps a handful of arrays of this many 4-byte items.
_SCORES_IN_MEMORY = 2**24
_LARGEST_BLOCK = 1024
LARGE = 1e30  # squared lengths between this and its inverse are in no danger in float32


def block_size(num_query: int, num_gallery: int) -> int:
    """Choose how many queries to take at a time, so that block x gallery stays bounded."""
    return max(1, min(num_query, _LARGEST_BLOCK, _SCORES_IN_MEMORY // num_gallery))


def unit_length(features: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Each row divided by its Euclidean length; a row of zeros stays zeros.

    The lengths are float64, so that neither very small nor very large features lose theirs.
    """
    squares = np.einsum("nd,nd->n", features, features, dtype=np.float64)
    strange = (squares != 0) & ~((squares > 1 / LARGE) & (squares < LARGE))
    if strange.any():
        features = near_one(features, strange)
        squares[strange] = np.square(features[strange], dtype=np.float64).sum(1)
    lengths = np.sqrt(np.where(squares == 0, 1, squares))
    return features / lengths.astype(np.float32)[:, None]


def row_lengths(
    rows: Float32[Array, "n d"],
) -> tuple[Float32[Array, " n"], Bool[Array, " n"]]:
    """Lengths, or 1 where they are 0; and whether float32 is enough for them: not for NaN.

    Zeros are told by their bits, as devices take the smallest numbers for zeros.
    """
    squares = jnp.sum(jnp.square(rows), axis=1)
    bits = jax.lax.bitcast_convert_type(rows, jnp.int32) & 0x7FFFFFFF  # without the sign
    nothing = jnp.max(bits, axis=1) == 0
    sound = nothing | ((squares > 1 / LARGE) & (squares < LARGE))
    return jnp.sqrt(jnp.where(nothing, 1, squares)), sound


def near_one(
    rows: Float32[np.ndarray, "n d"], which: Bool[np.ndarray, " n"]
) -> Float32[np.ndarray, "n d"]:
    """A copy in which some rows are times a power of two, so that they have a length in float32."""
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
    """Inner products plus an offset for each gallery item, by its length; in full float32.

    `precision=HIGHEST`: TF32 or bfloat16 passes would change ranks. -0 becomes +0, because they
    are equal scores and a sort or top-k by bits would part them.
    """
    scores = jnp.matmul(query, gallery.T, precision=jax.lax.Precision.HIGHEST) + offset
    scores = scores if length is None else scores / length
    return jnp.where(scores == 0, 0.0, scores)


_block_scores = jax.jit(block_scores)


def pad_block(array: np.ndarray, block: int, fill: int = 0) -> np.ndarray:
    """`array` lengthened along its first axis to `block` rows of `fill`."""
    missing = [(0, block - len(array))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, missing, constant_values=fill)


def iterate_scores(
    query: Float32[np.ndarray, "q d"],
    gallery: Float32[np.ndarray, "g d"],
    *,
    metric: str,
    block: int,
) -> Iterator[tuple[slice, Float32[Array, "b g"]]]:
    """Yield (which queries, their scores on the device), `block` queries at a time.

    Every block has the same shape, so there is one compilation: the last one is padded with
    queries of zeros, whose rows the caller drops.

    Args:
      query: [q, d] features as given.
      gallery: [g, d] features as given.
      metric: "cosine": the inner product of the features brought to unit length. "euclidean":
        q.g - |g|^2 / 2, which falls as the distance to this query grows.
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
