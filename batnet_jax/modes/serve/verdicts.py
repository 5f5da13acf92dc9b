"""Words for scores, by the thresholds that the run's verification measured."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from batnet_jax.errors import UserError
from batnet_jax.modes.accept import read_points

STRICT, LOOSE = 1e-3, 1e-1
"""The shares of pairs of two identities that score as `same`, and not as `different`."""


class Bands(NamedTuple):
    """The range of scores that leave unsure whether two images show one identity."""

    same: float
    """The lowest score of `same`."""
    different: float
    """`different` is below this score."""
    rate: float
    """The share of the pairs of two identities that reach `same`."""

    def verdict(self, score: float) -> str:
        """Return `same`, `unsure` or `different`."""
        if score >= self.same:
            return "same"
        return "unsure" if score >= self.different else "different"


def bands_of(points: Sequence[dict[str, Any]]) -> Bands | None:
    """Return the bands of some operating points; None if there were too few pairs for all of them.

    `same` begins at the threshold of the lowest measured rate that is not below `STRICT`;
    `different` ends at the threshold of the highest measured rate that is not above `LOOSE`.
    """
    known = {p["wanted_false_accept_rate"]: p["threshold"] for p in points if p["resolved"]}
    strict = min((rate for rate in known if rate >= 0.99 * STRICT), default=None)
    if strict is None or strict >= LOOSE:
        return None
    loose = max(rate for rate in known if rate <= 1.01 * LOOSE)
    return Bands(known[strict], known[loose], strict)


def read_bands(workdir: Path, step: int) -> Bands | None:
    """Return the bands of a model; if it has none, print to stderr how to get them."""
    try:
        folder, points = read_points(workdir, step)
    except UserError as error:
        print(f"warning: no words for scores: {error}", file=sys.stderr)
        return None
    bands = bands_of(points)
    if bands is None:
        why = "has too few pairs to measure" if points else "has not measured"
        print(
            f"note: scores have no words, because the run {why} thresholds: batnet report {folder}",
            file=sys.stderr,
        )
    return bands
