"""Fills shapes with integer arithmetic, so that all machines fill the same pixels.

Coordinates are in eighths of a canvas pixel (`SUB`), x to the right and y down. Each shape computes
a mask of its pixels and two texture coordinates inside its bounding box: `u` across the shape, from
-64 to 64, and `v` along it, from 0 to 64. A texture maps (u, v) to an index in `colours`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

SUB = 8
_SHADE = 72  # of 256: darkening of the side away from the light

Point = tuple[int, int]
Colour = tuple[int, int, int]
Texture = Callable[[np.ndarray, np.ndarray], np.ndarray]
Box = tuple[slice, slice]


class Canvas(NamedTuple):
    """A picture and, on request, the layer of each pixel; shapes modify both in place."""

    pixels: np.ndarray
    """[h, w, 3] uint8."""
    light: int
    """The side of the light: -1 or 1."""
    layers: np.ndarray | None = None
    """[h, w] uint8: the layer of the last shape that covered the pixel; None = not kept."""
    layer: int = 0
    """The layer of the next shapes."""

    def on_layer(self, layer: int) -> "Canvas":
        """Return this canvas for shapes of another layer."""
        return self._replace(layer=layer)


def _window(canvas: Canvas, low: Point, high: Point) -> tuple[Box, np.ndarray, np.ndarray] | None:
    """Return a box cut to the canvas and its pixel centres x [1, w] and y [h, 1]; None = empty."""
    height, width = canvas.pixels.shape[:2]
    left, top = max(0, low[0] // SUB), max(0, low[1] // SUB)
    right, bottom = min(width, high[0] // SUB + 1), min(height, high[1] // SUB + 1)
    if left >= right or top >= bottom:
        return None
    x = np.arange(left, right, dtype=np.int32)[None, :] * SUB + SUB // 2
    y = np.arange(top, bottom, dtype=np.int32)[:, None] * SUB + SUB // 2
    return (slice(top, bottom), slice(left, right)), x, y


def _paint(canvas: Canvas, box: Box, mask: Any, colours: Any) -> None:
    """Write colours and the layer to the masked pixels of a box; the mask ... masks all."""
    canvas.pixels[box][mask] = colours
    if canvas.layers is not None:
        canvas.layers[box][mask] = canvas.layer


def _fill(
    canvas: Canvas,
    box: Box,
    mask: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    colours: Sequence[Colour],
    texture: Texture | None,
) -> None:
    """Colour the masked pixels, darker on the side away from the light."""
    u, v = u[mask], v[mask]
    shade = 256 - ((np.maximum(24 - u * canvas.light, 0) * _SHADE) >> 6)
    table = np.asarray(colours, np.int32)
    base = table[texture(u, v)] if texture else table[:1]
    _paint(canvas, box, mask, ((base * shade[:, None]) >> 8).astype(np.uint8))


def capsule(
    canvas: Canvas,
    start: Point,
    end: Point,
    radii: tuple[int, int],
    colours: Sequence[Colour],
    texture: Texture | None = None,
) -> None:
    """Draw a limb: a segment from `start` to `end`, its radius going from radii[0] to radii[1]."""
    reach = max(radii)
    low = min(start[0], end[0]) - reach, min(start[1], end[1]) - reach
    high = max(start[0], end[0]) + reach, max(start[1], end[1]) + reach
    window = _window(canvas, low, high)
    if window is None:
        return
    box, x, y = window
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = (x - start[0]) * dx + (y - start[1]) * dy
    v = np.minimum(np.maximum(along // max(1, (dx * dx + dy * dy) >> 6), 0), 64)
    from_x, from_y = x - start[0] - ((v * dx) >> 6), y - start[1] - ((v * dy) >> 6)
    radius = np.maximum(radii[0] + ((v * (radii[1] - radii[0])) >> 6), 1)
    mask = from_x * from_x + from_y * from_y <= radius * radius
    _fill(canvas, box, mask, (from_x << 6) // radius, v, colours, texture)


def lathe(
    canvas: Canvas,
    outline: Sequence[tuple[int, int, int]],
    colours: Sequence[Colour],
    texture: Texture | None = None,
) -> None:
    """Draw a shape with an outline of rows (y, centre x, half-width), in increasing order of y."""
    ys, centres, halves = (np.array(column, np.int64) for column in zip(*outline, strict=True))
    low = int((centres - halves).min()), int(ys[0])
    high = int((centres + halves).max()), int(ys[-1])
    window = _window(canvas, low, high)
    if window is None:
        return
    box, x, y = window
    row = np.clip(np.searchsorted(ys, y[:, 0], side="right") - 1, 0, len(ys) - 2)
    span = np.maximum(ys[row + 1] - ys[row], 1)
    step = y[:, 0] - ys[row]
    centre = (centres[row] + (centres[row + 1] - centres[row]) * step // span)[:, None]
    half = (halves[row] + (halves[row + 1] - halves[row]) * step // span)[:, None]
    inside = (y >= ys[0]) & (y <= ys[-1])
    mask = (np.abs(x - centre) <= half) & inside
    u = (((x - centre) << 6) // np.maximum(half, 1)).astype(np.int32)
    v = np.broadcast_to((y - low[1]) * 64 // max(1, high[1] - low[1]), u.shape)
    _fill(canvas, box, mask, u, v, colours, texture)


def ellipse(
    canvas: Canvas,
    centre: Point,
    radii: tuple[int, int],
    colours: Sequence[Colour],
    texture: Texture | None = None,
) -> None:
    """Draw an upright ellipse with a half-width and half-height; v too runs from -64 to 64."""
    rx, ry = max(1, radii[0]), max(1, radii[1])
    low, high = (centre[0] - rx, centre[1] - ry), (centre[0] + rx, centre[1] + ry)
    window = _window(canvas, low, high)
    if window is None:
        return
    box, x, y = window
    u, v = np.broadcast_arrays(((x - centre[0]) << 6) // rx, ((y - centre[1]) << 6) // ry)
    _fill(canvas, box, u * u + v * v <= 64 * 64, u, v, colours, texture)


def shadow(canvas: Canvas, centre: Point, radii: tuple[int, int], keep: int) -> None:
    """Darken an ellipse of the canvas to `keep` / 256 of its brightness; its layers stay."""
    rx, ry = max(1, radii[0]), max(1, radii[1])
    window = _window(canvas, (centre[0] - rx, centre[1] - ry), (centre[0] + rx, centre[1] + ry))
    if window is None:
        return
    box, x, y = window
    u, v = ((x - centre[0]) << 6) // rx, ((y - centre[1]) << 6) // ry
    mask = u * u + v * v <= 64 * 64
    region = canvas.pixels[box]
    region[mask] = ((region[mask].astype(np.int32) * keep) >> 8).astype(np.uint8)


def rectangle(canvas: Canvas, low: Point, high: Point, colour: Colour) -> None:
    """Draw a flat rectangle; `low` and `high` are in whole canvas pixels, `high` excluded."""
    top, left = max(0, low[1]), max(0, low[0])
    box = slice(top, max(top, high[1])), slice(left, max(left, high[0]))
    _paint(canvas, box, ..., colour)
