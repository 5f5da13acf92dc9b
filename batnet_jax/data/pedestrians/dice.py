"""Integers that are equal on every machine: random numbers and a sine table.

NumPy guarantees neither the stream of a `Generator` in every version nor the last bit of a
vectorised sine on every processor. Random numbers therefore come from the hash SHAKE-128.
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
    """A stream of random integers determined by its key, for example `Dice(seed, "camera", 3)`."""

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
        """Draw an integer in [0, bound)."""
        return (self._word() * bound) >> 32

    def between(self, low: int, high: int) -> int:
        """Draw an integer in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def spread(self, reach: int) -> int:
        """Draw an integer in [-reach, reach] from a triangular distribution around 0."""
        return self.below(reach + 1) - self.below(reach + 1)

    def chance(self, percent: int) -> bool:
        """Return True with a probability of `percent` / 100."""
        return self.below(100) < percent

    def choose(self, options: Sequence[T]) -> T:
        """Draw one of the options; a repeated option is likelier."""
        return options[self.below(len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """Return the options in random order (Fisher-Yates)."""
        cards = list(options)
        for last in range(len(cards) - 1, 0, -1):
            other = self.below(last + 1)
            cards[last], cards[other] = cards[other], cards[last]
        return cards


# Scalar sines rounded to 1/1024. No value is near a tie, so the last bit of libm does not matter.
_SINES = tuple(round(math.sin(math.radians(degree)) * ONE) for degree in range(360))


def sine(degrees: int) -> int:
    """Return the sine of whole degrees, times `ONE`."""
    return _SINES[degrees % 360]


def cosine(degrees: int) -> int:
    """Return the cosine of whole degrees, times `ONE`."""
    return _SINES[(degrees + 90) % 360]


@functools.lru_cache(maxsize=4)
def _noise_table(seed: int) -> np.ndarray:
    raw = hashlib.shake_128(f"{seed}/noise".encode()).digest(2 << _NOISE_BITS)
    pairs = np.frombuffer(raw, np.uint8).astype(np.int16).reshape(-1, 2)
    return pairs.sum(axis=1, dtype=np.int16) - 255


def noise(seed: int, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return triangular noise of a shape, int16 in [-255, 255], from a cached table."""
    count = math.prod(shape)
    table = _noise_table(seed)
    start = offset % max(1, table.size - count)
    return np.resize(table[start : start + count], shape)
