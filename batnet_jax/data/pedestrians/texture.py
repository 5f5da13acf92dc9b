"""Textures of clothes and heads: functions from (u, v) to the index of a colour.

Horizontal patterns look the same from every side. `turn` (-64 to 64) moves the front centre of a
pattern with the body: an open front is in the middle in front view and at the edge in profile.
"""

import functools

import numpy as np

from batnet_jax.data.pedestrians.raster import Texture


def cloth(pattern: str, turn: int, front: bool, logo: bool) -> Texture:
    """Return the texture of a torso: 0 is the garment's main colour, 1 its accent colour."""
    return functools.partial(_cloth, pattern=pattern, turn=turn, front=front, logo=logo)


def _cloth(
    u: np.ndarray, v: np.ndarray, *, pattern: str, turn: int, front: bool, logo: bool
) -> np.ndarray:
    if pattern == "hoops":
        accent = (v * 7 // 64) % 2 == 1
    elif pattern == "stripes":
        accent = ((u + turn + 256) // 19) % 2 == 1
    elif pattern == "checks":
        accent = ((u + turn + 256) // 26 + v * 6 // 64) % 2 == 1
    elif pattern == "dots":
        column, row = (u + turn + 256) % 36 - 18, (v * 4) % 56 - 28
        accent = column * column + row * row // 3 < 130
    elif pattern == "halves":
        accent = v >= 34
    elif pattern == "band":
        accent = (v >= 20) & (v < 42)
    elif pattern == "open":
        accent = (np.abs(u - turn) < 22) & front
    elif pattern == "sash":
        slope = u if front else -u
        accent = np.abs(slope // 2 + 32 - v) < 12
    elif pattern == "raglan":
        accent = v < 12
    else:
        accent = np.zeros(u.shape, bool)
    if logo:
        mark = (np.abs(u - (turn if front else -turn)) < 24) & (v > 16) & (v < 36)
        accent = accent ^ mark
    return accent.astype(np.intp)


def cuff(start: int, end: int = 65) -> Texture:
    """Return a texture with the accent colour from `start` to `end` along a limb (0 to 64)."""
    return lambda u, v: ((v >= start) & (v < end)).astype(np.intp)


def side_stripe(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return 1 in a stripe along the middle third of a trouser leg, else 0."""
    return (np.abs(u) < 24).astype(np.intp)


def head(turn: int, front: bool, bald: bool) -> Texture:
    """Return the texture of a head facing `turn` (-64 to 64): face 0, hair 1, eyes 2."""

    def paint(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        across = u - turn * 5 // 8
        face = (np.abs(across) < 46) & (v > -22) & front
        face |= (np.abs(u - turn) < 40) & (v > -10) & front
        part = np.where(face | bald | (v > 46), 0, 1)
        eyes = face & (np.abs(v - 4) < 7) & (np.abs(np.abs(across) - 18) < 7)
        return np.where(eyes, 2, part)

    return paint
