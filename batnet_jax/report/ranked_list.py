"""A picture of ranked lists: each query and its first gallery images, marked right or wrong.

Marks differ by more than colour: a tick in a green frame, a cross in a red one.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps

from batnet_jax.errors import UserError
from batnet_jax.runtime.atomic_write import write_atomically

SHAPE = (384, 192)
"""Height and width in pixels in which an image is large enough to be drawn."""
_BOX = (96, 192)  # width, height of an image in pixels; pedestrians are about 1:2
_FRAME = 4
_GAP = 8
_BADGE = 20
_TEXT = 12
_TITLE = 16
_LINE = _TEXT + 4

_PAPER, _INK, _GREY = (255, 255, 255), (20, 20, 20), (110, 110, 110)
_RIGHT, _WRONG = (0, 130, 60), (200, 30, 30)


class Person(NamedTuple):
    """An image of a person, with identity and camera."""

    image: UInt8[np.ndarray, "h w 3"]
    pid: int
    camera: int | None  # None: unknown
    name: str = ""  # the user's name of the identity; "": none


def who(person: Person, room: int | None = None) -> str:
    """Return the name of a person, or "pid" and the number, with the camera, for a picture.

    Args:
      person: of an image.
      room: pixels; a longer name is cut. None for no limit.
    """
    camera = "" if person.camera is None else f"  cam {person.camera}"
    # The font of pictures has only the letters of western Europe.
    if not person.name or any(ord(letter) > 0xFF for letter in person.name):
        return f"pid {person.pid}{camera}"
    name, font = person.name, ImageFont.load_default(_TEXT)
    kept, end = len(name), ""
    while room is not None and kept > 1 and font.getlength(f"{name[:kept]}{end}{camera}") > room:
        kept, end = kept - 1, "..."
    return f"{name[:kept]}{end}{camera}"


class RankedList(NamedTuple):
    """A query, its average precision (a fraction; None: no match exists) and its best items.

    `gallery` is best first. It lacks the items that evaluation removes (junk; same identity and
    camera), so the places shown are the ranks that count.
    """

    query: Person
    average_precision: float | None
    gallery: Sequence[Person]


def draw_ranked_lists(
    path: str | os.PathLike | BinaryIO,
    rows: Sequence[RankedList],
    *,
    dataset: str,
    step: int,
    mean_ap: float,
    ap: str = "precision",
) -> None:
    """Write one PNG with a row for each query.

    Args:
      path: the file to write, in an existing folder, or an open file.
      rows: at least one.
      dataset: for the title, with the step and the mean AP.
      step: training step of the checkpoint.
      mean_ap: over the whole evaluation, as a fraction.
      ap: the convention of every AP shown: "precision" or "trapezoid".

    Raises:
      UserError: if rows are missing, or an image is not [h, w, 3] uint8.
    """
    if not rows:
        raise UserError("no ranked lists to draw: give at least one query")
    places = max(len(row.gallery) for row in rows)
    cell_width, cell_height = _cell_size()
    top = _GAP + _TITLE + _GAP + _LINE
    width = _GAP + (1 + places) * (cell_width + _GAP) + _GAP
    title = f"{dataset}, step {step}, mAP {mean_ap:.4f} ({ap})"
    width = max(width, 2 * _GAP + int(ImageFont.load_default(_TITLE).getlength(title)))
    sheet = Image.new("RGB", (width, top + len(rows) * (cell_height + _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), title, _INK, ImageFont.load_default(_TITLE))

    columns = [_GAP] + [2 * _GAP + n * (cell_width + _GAP) for n in range(1, places + 1)]
    heads = ["query", *(str(n) for n in range(1, places + 1))]
    for x, head in zip(columns, heads, strict=True):
        _caption(draw, x, top - _LINE, head, _GREY)
    for number, row in enumerate(rows):
        y = top + number * (cell_height + _GAP)
        known = row.average_precision is not None
        note = f"AP {row.average_precision:.4f}" if known else "AP: no match"
        _draw_person(sheet, columns[0], y, row.query, None, note)
        for x, person in zip(columns[1:], row.gallery, strict=False):
            _draw_person(sheet, x, y, person, person.pid == row.query.pid, "")
    write_png(sheet, path)


def write_png(picture: Image.Image, path: str | os.PathLike | BinaryIO) -> None:
    """Write a picture to an open file, or to a path, where an old file stays until it is whole."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    if isinstance(path, str | os.PathLike):
        write_atomically(Path(path), buffer.getvalue())
    else:
        path.write(buffer.getvalue())


def _cell_size() -> tuple[int, int]:
    return _BOX[0] + 2 * _FRAME, _BOX[1] + 2 * _FRAME + 2 * _LINE


def _caption(draw: ImageDraw.ImageDraw, x: int, y: int, text: str, colour: tuple) -> None:
    centre = x + _cell_size()[0] / 2
    draw.text((centre, y), text, colour, ImageFont.load_default(_TEXT), anchor="ma")


def _draw_person(
    sheet: Image.Image, x: int, y: int, person: Person, right: bool | None, note: str
) -> None:
    """Draw a framed image, a badge unless `right` is None, and a caption of two lines."""
    image = np.asarray(person.image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UserError(
            f"an image to draw has shape {image.shape} and dtype {image.dtype}: must be"
            " [height, width, 3] uint8; convert it"
        )
    draw = ImageDraw.Draw(sheet)
    colour = _GREY if right is None else _RIGHT if right else _WRONG
    outer = (x, y, x + _BOX[0] + 2 * _FRAME - 1, y + _BOX[1] + 2 * _FRAME - 1)
    draw.rectangle(outer, fill=_PAPER, outline=colour, width=_FRAME)
    fitted = ImageOps.contain(Image.fromarray(image), _BOX)
    left = x + _FRAME + (_BOX[0] - fitted.width) // 2
    sheet.paste(fitted, (left, y + _FRAME + (_BOX[1] - fitted.height) // 2))
    if right is not None:
        _draw_badge(draw, x, y, right, colour)
    below = y + _BOX[1] + 2 * _FRAME + 2
    _caption(draw, x, below, who(person, _cell_size()[0]), _INK)
    _caption(draw, x, below + _LINE, note, _INK)


def _draw_badge(draw: ImageDraw.ImageDraw, x: int, y: int, right: bool, colour: tuple) -> None:
    """Draw a tick or a cross, white on the frame's colour, in the upper left corner."""
    draw.rectangle((x, y, x + _BADGE - 1, y + _BADGE - 1), fill=colour)
    tick = [[(4, 10), (8, 14), (15, 5)]]
    cross = [[(5, 5), (14, 14)], [(5, 14), (14, 5)]]
    for stroke in tick if right else cross:
        draw.line([(x + a, y + b) for a, b in stroke], _PAPER, width=3, joint="curve")
