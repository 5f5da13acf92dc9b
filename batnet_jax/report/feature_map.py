"""The section of the map of features: images as points, near to each other if they are similar."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from batnet_jax.report.charts import STYLES
from batnet_jax.report.page import Markup, Section, escape, figure, grid, paragraph

SHAPES = (
    "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0Z",
    "M-4 3.4H4L0-4Z",
    "M-3.2-3.2H3.2V3.2H-3.2Z",
)
"""Paths of the marks: a dot, a triangle, a square."""
MOST = STYLES * len(SHAPES)
"""Identities that can be distinguished on a map."""
_SIDE, _MARGIN = 340, 12


class Mark(NamedTuple):
    """An image on a map."""

    who: str
    """The name or the number of its identity."""
    camera: int | None
    """None: unknown."""
    is_query: bool


def map_section(
    marks: Sequence[Mark],
    places: Mapping[str, Float[np.ndarray, "n 2"]],
    *,
    shares: Sequence[float],
    num_identities: int,
    missing: str = "",
    key: str,
    title: str,
) -> Section:
    """Make the section of maps.

    Args:
      marks: the n images, of at most `MOST` identities.
      places: where each image is, for each method: "PCA" and perhaps others.
      shares: the shares of the variance that the two axes of the PCA have.
      num_identities: all identities of the test.
      missing: why a method is missing; "" if none is.
      key: the section's.
      title: the section's.
    """
    people = list(dict.fromkeys(mark.who for mark in marks))
    text = (
        f"The features of {len(marks):,} images of {len(people):,} of {num_identities:,} "
        "identities, scaled to unit length, in two dimensions. Each identity has a colour and a "
        "shape; queries have an outline. Point at a mark, or choose an identity, to see all of its "
        f"images. Rankings use the distances of the features, not the distances here. {missing}"
    )
    notes = {
        "PCA": f"PCA: the two directions of most variance, {100 * sum(shares):.0f}% of it.",
        "t-SNE": "t-SNE: neighbours stay neighbours; distances between groups mean little.",
    }
    drawings = [
        figure(_drawing(marks, people, own, f"Map of features by {name}"), notes.get(name, name))
        for name, own in places.items()
    ]
    options = "".join(f'<option value="{escape(who)}">{escape(who)}</option>' for who in people)
    form = (
        '<form class="light" hidden aria-label="Highlight an identity">'
        f'<p><label for="{key}-who">Identity</label><select id="{key}-who">'
        f'<option value="">all</option>{options}</select></p>'
        "<output></output></form>"
    )
    return Section(key, title, paragraph(text) + form + grid(drawings))


def _drawing(
    marks: Sequence[Mark], people: Sequence[str], places: Float[np.ndarray, "n 2"], title: str
) -> Markup:
    """Draw marks in a square; both axes have one scale."""
    low, high = places.min(0), places.max(0)
    scale = (_SIDE - 2 * _MARGIN) / max(float((high - low).max()), 1e-12)
    centred = (places - (low + high) / 2) * scale + _SIDE / 2
    drawn = "".join(
        _mark(mark, people.index(mark.who), x, y)
        for mark, (x, y) in zip(marks, centred.tolist(), strict=True)
    )
    return Markup(
        f'<svg class="scatter" viewBox="0 0 {_SIDE} {_SIDE}" role="img" aria-label="{title}">'
        f"{drawn}</svg>"
    )


def _mark(mark: Mark, number: int, x: float, y: float) -> str:
    camera = "" if mark.camera is None else f", camera {mark.camera}"
    kind = "query" if mark.is_query else "gallery"
    name = escape(f"{mark.who}{camera}, {kind}")
    style, shape = number % STYLES, SHAPES[number // STYLES % len(SHAPES)]
    return (
        f'<path class="mark s{style} {kind}" data-who="{escape(mark.who)}" d="{shape}"'
        f' transform="translate({x:.1f} {y:.1f})"><title>{name}</title></path>'
    )
