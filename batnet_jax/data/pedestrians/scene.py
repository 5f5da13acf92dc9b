"""Draws the surroundings of a person: the wide backdrop of each camera, and occluders."""

import functools

import numpy as np

from batnet_jax.data.pedestrians.dice import Dice, noise
from batnet_jax.data.pedestrians.raster import (
    SUB,
    Canvas,
    Colour,
    capsule,
    ellipse,
    lathe,
    rectangle,
)
from batnet_jax.data.pedestrians.style import EASY

BACKDROP_WIDTHS = 8  # width of a backdrop in crops
OCCLUDERS = ("post", "rail", "bush", "car", "person")

MUTED: tuple[Colour, ...] = (
    (150, 146, 138),
    (112, 116, 122),
    (186, 176, 158),
    (92, 84, 78),
    (204, 204, 200),
    (128, 140, 120),
    (160, 124, 100),
    (70, 76, 88),
)
STRONG: tuple[Colour, ...] = (
    (176, 62, 56),
    (50, 84, 150),
    (60, 116, 70),
    (212, 176, 84),
    (120, 80, 130),
    (124, 178, 198),
    (44, 44, 52),
    (226, 224, 218),
)


def _tint(colour: Colour, percent: int) -> Colour:
    return tuple(min(255, channel * percent // 100) for channel in colour)  # type: ignore[return-value]


def _unit(canvas: Canvas) -> int:
    """Return the canvas pixels in one unit of length; 1 for the canvas of a picture 128 high."""
    return max(1, canvas.pixels.shape[0] // 320)


@functools.lru_cache(maxsize=32)
def backdrop(
    seed: int, camera: int, height: int, width: int, vivid: int = EASY.vivid
) -> np.ndarray:
    """Draw a camera's view, [height * 5 / 4, width * BACKDROP_WIDTHS, 3] uint8; cached."""
    dice = Dice(seed, "backdrop", camera)
    tall, wide = height * 5 // 4, width * BACKDROP_WIDTHS
    canvas = Canvas(np.zeros((tall, wide, 3), np.uint8), 1)
    horizon = tall * dice.between(46, 66) // 100
    wall = dice.choose(MUTED)
    rectangle(canvas, (0, 0), (wide, horizon), wall)
    left = 0
    while left < wide:
        piece = width * dice.between(30, 110) // 100
        _segment(canvas, dice, wall, vivid, (left, min(wide, left + piece)), horizon)
        left += piece
    _floor(canvas, dice, horizon)
    grain = np.repeat(
        np.repeat(noise(seed, camera * 977, (tall // 4 + 1, wide // 4 + 1)), 4, 0), 4, 1
    )
    rough = grain[:tall, :wide, None] >> 5
    return np.clip(canvas.pixels + rough, 0, 255).astype(np.uint8)


def _segment(
    canvas: Canvas, dice: Dice, wall: Colour, vivid: int, ends: tuple[int, int], horizon: int
) -> None:
    """Draw a piece of the wall: a facade, a shop window, a gate, a hedge or a poster."""
    left, right = ends
    strong = dice.choose(STRONG) if dice.chance(vivid) else dice.choose(MUTED)
    kind = dice.choose(("facade", "window", "gate", "hedge", "poster", "plain"))
    span = right - left
    if kind == "plain":
        return
    rectangle(canvas, (left, 0), (right, horizon), strong if kind != "poster" else wall)
    if kind == "facade":
        pane = max(4, span // dice.between(3, 6))
        for x in range(left + pane // 4, right - pane // 2, pane):
            for y in range(pane // 3, horizon - pane // 2, pane * 3 // 2):
                rectangle(canvas, (x, y), (x + pane * 5 // 8, y + pane), _tint(strong, 62))
    elif kind == "window":
        glass = _tint(dice.choose(STRONG), dice.between(70, 110))
        frame, low = 6 * _unit(canvas), horizon - horizon // 6
        rectangle(canvas, (left + frame, 2 * frame), (right - frame, low), glass)
        middle = (left + right) // 2
        rectangle(canvas, (middle - frame // 3, 2 * frame), (middle + frame // 3, low), wall)
    elif kind == "gate":
        gap = _unit(canvas) * dice.between(8, 18)
        for x in range(left, right, gap):
            rectangle(canvas, (x, 0), (x + gap // 2, horizon), _tint(strong, 74))
    elif kind == "hedge":
        for _ in range(span // (2 * _unit(canvas))):
            centre = dice.between(left, right) * SUB, dice.below(horizon) * SUB
            leaf = _tint((62, 110, 58), dice.between(60, 135))
            radius = dice.between(4, 14) * SUB * _unit(canvas)
            ellipse(canvas, centre, (radius, radius), [leaf])
    elif kind == "poster":
        low, high = horizon * dice.between(5, 30) // 100, horizon * dice.between(60, 95) // 100
        rectangle(canvas, (left + span // 6, low), (right - span // 6, high), strong)
        stripe = (low + high) // 2
        rectangle(
            canvas, (left + span // 6, stripe), (right - span // 6, high), dice.choose(STRONG)
        )


def _floor(canvas: Canvas, dice: Dice, horizon: int) -> None:
    """Draw the ground, lighter towards the viewer: tiles, a kerb, a lawn or a crossing."""
    tall, wide = canvas.pixels.shape[:2]
    ground, kind = dice.choose(MUTED), dice.choose(("tiles", "kerb", "lawn", "crossing"))
    if kind == "lawn":
        ground = (96, 132, 76)
    depth, unit = tall - horizon, _unit(canvas)
    for y in range(horizon, tall):
        rectangle(canvas, (0, y), (wide, y + 1), _tint(ground, 80 + 30 * (y - horizon) // depth))
    rectangle(canvas, (0, horizon), (wide, horizon + 5 * unit), _tint(ground, 60))
    if kind == "tiles":
        y, gap = horizon, 8 * unit
        while y < tall:
            rectangle(canvas, (0, y), (wide, y + 2 * unit), _tint(ground, 72))
            y, gap = y + gap, gap + 6 * unit
        for x in range(0, wide, 46 * unit):
            ends = (x * SUB, horizon * SUB), ((x * 3 // 2 - wide // 4) * SUB, tall * SUB)
            capsule(canvas, *ends, (6 * unit, 12 * unit), [_tint(ground, 78)])
    elif kind == "kerb":
        line = horizon + depth * dice.between(35, 70) // 100
        rectangle(canvas, (0, line), (wide, line + 9 * unit), _tint(ground, 135))
        rectangle(canvas, (0, line + 9 * unit), (wide, tall), _tint(ground, 70))
    elif kind == "crossing":
        for x in range(0, wide, 88 * unit):
            rectangle(canvas, (x, horizon + depth // 4), (x + 40 * unit, tall), (214, 212, 204))


def occlude(canvas: Canvas, dice: Dice, kind: str) -> None:
    """Draw an occluder between camera and person, at one side or the bottom of the crop.

    The caller draws the kind "person", which needs an identity.
    """
    tall, wide = canvas.pixels.shape[:2]
    colour = _tint(dice.choose((*MUTED, *STRONG)), 90)
    side = dice.choose((-1, 1))
    if kind == "post":
        x = wide // 2 + side * wide * dice.between(12, 32) // 100
        half = wide * dice.between(5, 8) // 100 * SUB
        lathe(canvas, [(0, x * SUB, half), (tall * SUB, x * SUB, half)], [colour])
    elif kind == "rail":
        top, bar = tall * dice.between(70, 78) // 100, tall // 36
        for y in (top, top + 4 * bar):
            rectangle(canvas, (0, y), (wide, y + bar), colour)
        for x in range(dice.below(12), wide, 22):
            rectangle(canvas, (x, top), (x + 7, tall), _tint(colour, 84))
    elif kind == "bush":
        for _ in range(26):
            x = wide // 2 + side * wide * dice.between(16, 50) // 100
            y = tall - tall * dice.below(34) // 100
            leaf = _tint((58, 108, 54), dice.between(60, 140))
            radius = wide * dice.between(5, 10) // 100 * SUB
            ellipse(canvas, (x * SUB, y * SUB), (radius, radius), [leaf])
    elif kind == "car":
        top = tall * dice.between(78, 84) // 100
        x, nose = wide // 2 * SUB, wide * 3 // 4 * SUB
        shift = side * wide // 5 * SUB
        rows = [(top, 60), (top + tall // 30, 92), (tall, 100)]
        outline = [(y * SUB, x + shift, nose * share // 100) for y, share in rows]
        lathe(canvas, outline, [colour])
        lamp = (x + shift - side * nose * 7 // 10, (top + tall // 12) * SUB)
        ellipse(canvas, lamp, (wide // 14 * SUB, wide // 22 * SUB), [(244, 236, 190)])
