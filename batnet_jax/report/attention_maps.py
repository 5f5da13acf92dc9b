"""A picture of Bi-attention: for each person the image, and the maps around it as heat maps.

Fang et al., ICCV 2019, Fig. 6, shows the image, the map before the attention and the masked map.
This picture shows the mask between the two maps: before times mask is after.
"""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps

from batnet_jax.errors import UserError
from batnet_jax.report.layers import LEGEND
from batnet_jax.report.ranked_list import Person, who, write_png

_BOX = (128, 256)  # width, height of a cell in pixels: the paper's image size
_GAP = 8
_TEXT = 12
_TITLE = 16
_LINE = _TEXT + 4
_BAR = 128  # length of the colour bar

_PAPER, _INK, _GREY = (255, 255, 255), (20, 20, 20), (90, 90, 90)
_HEAT = 0.6  # weight of the heat map in an overlay; the image has the rest

COLUMNS = ("before", "mask", "after")  # fields of `AttentionMaps`


class AttentionMaps(NamedTuple):
    """The maps around a Bi-attention for one image, as means over the channels."""

    before: Float[np.ndarray, "h w"]
    """The input; >= 0, because a ReLU precedes every position."""
    mask: Float[np.ndarray, "h w"]
    """The mask; in [1/2, 1)."""
    after: Float[np.ndarray, "h w"]
    """The output: the input times the mask, channel by channel."""


class AttentionRow(NamedTuple):
    """A person and the maps at each position of a Bi-attention."""

    person: Person
    maps: Mapping[str, AttentionMaps]
    layers: UInt8[np.ndarray, "H W 3"] | None = None
    """The image with its layers in colour; None unless it is drawn. See `layers.paint_layers`."""


def mean_maps(attention: Mapping[str, Mapping[str, np.ndarray]]) -> list[dict[str, AttentionMaps]]:
    """Average maps over their channels, as in "the response" of Fig. 6.

    Args:
      attention: `input`, `mask` and `output` of each position, [b, h, w, c] each.
    Returns: the maps of each of the b images, by position.
    """
    means = {
        position: [
            np.asarray(maps[key], np.float32).mean(-1) for key in ("input", "mask", "output")
        ]
        for position, maps in attention.items()
    }
    count = min((len(maps[0]) for maps in means.values()), default=0)
    return [
        {position: AttentionMaps(*(m[i] for m in maps)) for position, maps in means.items()}
        for i in range(count)
    ]


def overlay(
    image: UInt8[np.ndarray, "H W 3"],
    heat: Float[np.ndarray, "h w"],
    limits: tuple[float, float] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Lay a heat map over an image.

    The map is resized bilinearly. The image becomes grey, so that only the map has colour.

    Args:
      image: RGB.
      heat: the map, of any size.
      limits: the values drawn dark violet and yellow; None = the map's lowest and highest.
    Returns: RGB.

    Raises: UserError if the map holds a value that is not finite.
    """
    heat = np.asarray(heat, np.float32)
    if not np.isfinite(heat).all():
        raise UserError("an attention map holds values that are not finite: give finite maps")
    low, high = limits or (float(heat.min()), float(heat.max()))
    scaled = (heat - low) / (high - low) if high > low else np.zeros_like(heat)
    height, width = image.shape[:2]
    large = cv2.resize(scaled, (width, height), interpolation=cv2.INTER_LINEAR)
    colours = _colour(np.rint(255 * large.clip(0, 1)).astype(np.uint8))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    return np.rint(_HEAT * colours + (1 - _HEAT) * grey).astype(np.uint8)


def draw_attention_maps(
    path: str | os.PathLike, rows: Sequence[AttentionRow], *, dataset: str, step: int
) -> None:
    """Write one PNG with a row for each person.

    Args:
      path: file to write; its folder must exist.
      rows: at least one; all have the same positions, at least one, and all have layers or none.
      dataset: for the title, with the step.
      step: training step of the checkpoint.

    Raises:
      UserError: if rows or positions are missing, or a map is not finite.
    """
    positions = list(rows[0].maps) if rows else []
    if not positions:
        raise UserError("no attention maps to draw: give at least one image and one position")
    title = f"{dataset}, step {step}: Bi-attention at {', '.join(positions)}"
    top = _GAP + _TITLE + _GAP + 2 * _LINE
    cell_height = _BOX[1] + _LINE + _GAP
    bottom = top + len(rows) * cell_height
    # The columns of one position are closer to each other than to those of the next position.
    group = len(COLUMNS) * (_BOX[0] + _GAP) + _GAP
    start = _BOX[0] + 3 * _GAP  # where the first position begins
    start += _BOX[0] + _GAP if rows[0].layers is not None else 0
    width = start + len(positions) * group
    width = max(width, 2 * _GAP + int(ImageFont.load_default(_TITLE).getlength(title)))
    lines = 2 if rows[0].layers is None else 3
    sheet = Image.new("RGB", (width, bottom + lines * _LINE + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), title, _INK, ImageFont.load_default(_TITLE))
    # One scale for all masks of a position: a mask that changes hardly anything must look flat.
    limits_of = {position: mask_limits(rows, position) for position in positions}
    lefts = {position: start + n * group for n, position in enumerate(positions)}
    _caption(draw, _GAP, top - _LINE, "image", _INK)
    if rows[0].layers is not None:
        _caption(draw, 2 * _GAP + _BOX[0], top - _LINE, "layers", _INK)
    for position, left in lefts.items():
        for n, head in enumerate(COLUMNS):
            x = left + n * (_BOX[0] + _GAP)
            _caption(draw, x, top - _LINE, head, _INK)
            if head == "mask":
                _caption(draw, x, top - 2 * _LINE, f"Bi-attention at {position}", _GREY)
    for number, row in enumerate(rows):
        y = top + number * cell_height
        _draw_cell(sheet, _GAP, y, row.person.image, who(row.person))
        if row.layers is not None:
            _draw_cell(sheet, 2 * _GAP + _BOX[0], y, row.layers, "")
        for position, left in lefts.items():
            for n, key in enumerate(COLUMNS):
                heat = getattr(row.maps[position], key)
                limits = limits_of[position] if key == "mask" else None
                x = left + n * (_BOX[0] + _GAP)
                note = f"{heat.min():.3g} to {heat.max():.3g}"
                _draw_cell(sheet, x, y, overlay(row.person.image, heat, limits), note)
    _draw_legend(sheet, _GAP, bottom)
    if rows[0].layers is not None:
        font = ImageFont.load_default(_TEXT)
        draw.text((_GAP, bottom + 2 * _LINE), f"{LEGEND}.", _INK, font)
    write_png(sheet, path)


def mask_limits(rows: Sequence[AttentionRow], position: str) -> tuple[float, float]:
    """Return the lowest and the highest value of all masks at a position."""
    masks = [row.maps[position].mask for row in rows]
    return float(min(mask.min() for mask in masks)), float(max(mask.max() for mask in masks))


def _colour(values: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colour values by viridis, RGB: even steps look even, also in grey and to the colour-blind."""
    return cv2.cvtColor(cv2.applyColorMap(values, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def _caption(draw: ImageDraw.ImageDraw, x: int, y: int, text: str, colour: tuple) -> None:
    draw.text((x + _BOX[0] / 2, y), text, colour, ImageFont.load_default(_TEXT), anchor="ma")


def _draw_cell(sheet: Image.Image, x: int, y: int, image: np.ndarray, note: str) -> None:
    """Draw a whole image into its box, with a note below."""
    fitted = ImageOps.contain(Image.fromarray(image), _BOX)
    left, top = (_BOX[0] - fitted.width) // 2, (_BOX[1] - fitted.height) // 2
    sheet.paste(fitted, (x + left, y + top))
    _caption(ImageDraw.Draw(sheet), x, y + _BOX[1] + 2, note, _INK)


def _draw_legend(sheet: Image.Image, x: int, y: int) -> None:
    """Draw the colour bar and explain its ends."""
    ramp = _colour(np.linspace(0, 255, _BAR)[None].repeat(_TEXT, 0).astype(np.uint8))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_TEXT)
    start = x + int(font.getlength("lowest ")) + 2
    draw.text((x, y), "lowest", _INK, font)
    sheet.paste(Image.fromarray(ramp), (start, y + 2))
    draw.text(
        (start + _BAR + 6, y), "highest value: of the map itself for before and after,", _INK, font
    )
    note = "of all masks in the column for mask. Below each map: its own lowest and highest value."
    draw.text((x, y + _LINE), note, _INK, font)
