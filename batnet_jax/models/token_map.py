"""A map with further tokens beside it, which a vision transformer passes from block to block.

A Bi-attention or the crop of a part changes the map, and leaves the tokens as they are.
"""

from typing import NamedTuple

import jax


class TokenMap(NamedTuple):
    """The tokens of an image.

    Attributes:
      map: [b, h, w, c], a token for each patch.
      tokens: [b, t, c], the tokens without a place: the class token, then registers.
    """

    map: jax.Array
    tokens: jax.Array


def map_of(x: jax.Array | TokenMap) -> jax.Array:
    """Return the map of a `TokenMap`, or `x` if it is a map itself."""
    return x.map if isinstance(x, TokenMap) else x


def with_map(x: jax.Array | TokenMap, new: jax.Array) -> jax.Array | TokenMap:
    """Return `x` with a new map in place of its own."""
    return x._replace(map=new) if isinstance(x, TokenMap) else new
