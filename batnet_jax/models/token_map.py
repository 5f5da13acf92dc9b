"""A map with further tokens beside it, as a vision transformer hands on from block to block.

What works on a map, such as a Bi-attention or the crop of a part, leaves the tokens as they are.
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
    """Return the map itself, or that of a `TokenMap`."""
    return x.map if isinstance(x, TokenMap) else x


def with_map(x: jax.Array | TokenMap, new: jax.Array) -> jax.Array | TokenMap:
    """Return a new map in place of the one in x."""
    return x._replace(map=new) if isinstance(x, TokenMap) else new
