"""The section of attention: Fig. 6 of the paper, with heat maps around each Bi-attention."""

from collections.abc import Mapping, Sequence
from typing import Any

from batnet_jax.report.attention_maps import AttentionRow, mask_limits, overlay
from batnet_jax.report.layers import LEGEND, share_table
from batnet_jax.report.page import Markup, Section, escape, grid, paragraph
from batnet_jax.report.ranked_list import Person
from batnet_jax.report.thumbnails import Thumbnails, picture

_BOX = (96, 192)
_COLUMNS = (("before", ""), ("mask", "own scale"), ("mask", "shared scale"), ("after", ""))
"""The maps of a row, and the scale of the masks."""
_CAPTION = (
    "Before: the feature map that enters the Bi-attention; mask: the factor that multiplies it; "
    "after: the masked map. Each is a mean over the channels, laid over the image in grey. Colours "
    "run from the lowest value (dark violet) to the highest (yellow). Each map before or after has "
    "its own colour scale, so colours compare places within one map. A mask is shown twice: on its "
    "own scale, which shows what it picks out, and on the scale of all masks at the position, "
    "which compares images. The lowest and highest values are below each map. The mask is between "
    "0.5 and 1, so the map after it is always lower: look for the places that it lowers least."
)

_LAYERS = (
    "These images are drawn, so the pixels of the person are known. A map's share on the person "
    "says how much of its energy lies on the person; a flat map has a lift of 1. A map that only "
    "knows where people usually are has the same share on the people of other images. The mask is "
    "at least 0.5, so its part above 0.5 shows what it picks out."
)


def attention_section(
    rows: Sequence[AttentionRow],
    thumbnails: Thumbnails,
    figures: Mapping[str, Any] | None = None,
) -> Section:
    """Make the section of attention.

    Args:
      rows: none if the network has no attention.
      thumbnails: collects the images.
      figures: see `share_table`; None unless the images are drawn.

    Raises: UserError if a map is not finite.
    """
    key, title = "attention", "Bi-attention"
    measured = [paragraph(_LAYERS), share_table(figures)] if figures else []
    if not rows:
        text = "This network has no attention (config.model.attention is none)."
        rest = "The maps at its positions are measured." if figures else "Nothing is shown."
        return Section(key, title, "\n".join([paragraph(f"{text} {rest}"), *measured]))
    limits = {position: mask_limits(rows, position) for position in rows[0].maps}
    parts = [
        _row(row, position, limits[position], thumbnails) for row in rows for position in row.maps
    ]
    legend = Markup(
        '<p class="legend"><span>lowest</span>'
        '<span class="heat" role="img" aria-label="dark violet through green to yellow"></span>'
        "<span>highest value</span></p>"
    )
    caption = f"{_CAPTION} {LEGEND}." if rows[0].layers is not None else _CAPTION
    body = [*measured, paragraph(caption) + legend + grid(parts, "grid pairs")]
    return Section(key, title, "\n".join(body))


def _row(
    row: AttentionRow, position: str, limits: tuple[float, float], thumbnails: Thumbnails
) -> str:
    name = _name(row.person)
    figures = [_figure(thumbnails.add(row.person.image, _BOX), f"Query, {name}", "image", "")]
    if row.layers is not None:
        figures.append(_figure(thumbnails.add(row.layers, _BOX), f"{name}: layers", "layers", ""))
    for column, scale in _COLUMNS:
        heat = getattr(row.maps[position], column)
        image = overlay(row.person.image, heat, limits if scale == "shared scale" else None)
        title = f"{column}, {scale}" if scale else column
        alt = f"{name}: heat map {title} at {position}"
        note = f"{heat.min():.3g} to {heat.max():.3g}"
        figures.append(_figure(thumbnails.add(image, _BOX), alt, title, note))
    head = f"<h3>{escape(name.capitalize())}, at {escape(position)}</h3>"
    style = "maps" if row.layers is None else "maps layered"
    return f'{head}<div class="{style}">{"".join(figures)}</div>'


def _figure(thumbnail: str, alt: str, head: str, note: str) -> str:
    caption = f"<figcaption><b>{head}</b>{note}</figcaption>"
    return f"<figure>{picture(thumbnail, alt)}{caption}</figure>"


def _name(person: Person) -> str:
    camera = "" if person.camera is None else f", camera {person.camera}"
    return f"identity {person.name or person.pid}{camera}"
