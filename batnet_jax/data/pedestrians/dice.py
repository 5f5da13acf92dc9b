"""Integers that are the same on every machine: random draws and a sine table.

NumPy promises neither the same `Generator` stream in every version nor the same last bit of a
vectorised sine on every processor. A hash promises both, so the drawing draws from SHAKE-128.
"""

import functools
import hashlib
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

ONE = 1024  # the fixed-point 1.0 of sines and cosines
_NOISE_BITS = 18


class Dice:
    """A stream of random integers named by its key, e.g. `Dice(seed, "camera", 3)`."""

    def __init__(self, *key: int | str) -> None:
        self._key = "/".join(map(str, key))
        self._block = -1
        self._words: list[int] = []

    def _word(self) -> int:
        if not self._words:
            self._block += 1
            digest = hashlib.shake_128(f"{self._key}#{self._block}".encode()).digest(512)
            self._words = np.frombuffer(digest, "<u4").tolist()
        return self._words.pop()

    def below(self, bound: int) -> int:
        """An integer in [0, bound)."""
        return (self._word() * bound) >> 32

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def spread(self, reach: int) -> int:
        """An integer in [-reach, reach], values near zero the likelier (a triangle)."""
        return self.below(reach + 1) - self.below(reach + 1)

    def chance(self, percent: int) -> bool:
        """True in `percent` of 100 draws."""
        return self.below(100) < percent

    def choose(self, options: Sequence[T]) -> T:
        """One of the options; repeat an option to make it likelier."""
        return options[self.below(len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """The options in random order (Fisher-Yates)."""
        cards = list(options)
        for last in range(len(cards) - 1, 0, -1):
            other = self.below(last + 1)
            cards[last], cards[other] = cards[other], cards[last]
        return cards


# Scalar sines rounded to 1/1024: no value lies near a rounding tie, so libm's last bit is moot.
_SINES = tuple(round(math.sin(math.radians(degree)) * ONE) for degree in range(360))


def sine(degrees: int) -> int:
    """Sine of whole degrees, times `ONE`."""
    return _SINES[degrees % 360]


def cosine(degrees: int) -> int:
    """Cosine of whole degrees, times `ONE`."""
    return _SINES[(degrees + 90) % 360]


@functools.lru_cache(maxsize=4)
def _noise_table(seed: int) -> np.ndarray:
    raw = hashlib.shake_128(f"{seed}/noise".encode()).digest(2 << _NOISE_BITS)
    pairs = np.frombuffer(raw, np.uint8).astype(np.int16).reshape(-1, 2)
    return pairs.sum(axis=1, dtype=np.int16) - 255


def noise(seed: int, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    """Triangular noise of the given shape, int16 in [-255, 255], from a table made once."""
    count = math.prod(shape)
    table = _noise_table(seed)
    start = offset % max(1, table.size - count)
    return np.resize(table[start : start + count], shape)
