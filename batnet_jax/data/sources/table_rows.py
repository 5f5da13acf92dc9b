"""Reads the rows of a table of images: the labels, the split and the box of each image."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from batnet_jax.data.files.columns import CAMERAS, PATHS, PIDS, cut_fractions, find_name
from batnet_jax.data.files.read_table import read_table
from batnet_jax.data.sources.file_labels import Labels, plain_identity, plain_number
from batnet_jax.data.sources.split_folders import NAMES, role_of
from batnet_jax.errors import UserError

Box = tuple[float, float, float, float]
"""The left, top, right and bottom edge in pixels."""
SPLITS = ("split", "splits", "subset", "set", "fold", "partition")
QUERY, GALLERY = ("isquery",), ("isgallery",)
BOXES = (
    ("x0", "y0", "x1", "y1"),
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("left", "top", "right", "bottom"),
)
"""Names of the columns of boxes."""
YES, NO = ("true", "1", "yes", "y", "t"), ("false", "0", "no", "n", "f", "")
ALL = "all"
"""The split of all rows of a table without splits."""
MAX_SHOWN = 8
"""Names of columns in a message."""

_Column = tuple[str, list[str]]


class Row(NamedTuple):
    """An image as the table describes it."""

    number: int
    """For messages."""
    path: str
    """As the table spells it."""
    labels: Labels
    splits: tuple[str, ...]
    """Among train, query, gallery, test and val; or `ALL`."""
    box: Box | None

    @property
    def name(self) -> str:
        """The path and the box, a combination that no other row of the split has."""
        return self.path + ("" if self.box is None else f"#{','.join(f'{x:g}' for x in self.box)}")


def read_rows(path: Path) -> tuple[list[Row], str]:
    """Read the rows of a table.

    Returns: the rows, and a line that says which columns are read.
    Raises: UserError naming the column that is missing, or the row that is wrong.
    """
    table = read_table(path)
    filled = {name: texts for name, texts in table.columns.items() if any(texts)}

    def find(wanted: Sequence[str]) -> _Column | None:
        name = find_name(wanted, filled)
        return None if name is None else (name, filled[name])

    def need(wanted: Sequence[str], example: str) -> _Column:
        column = find(wanted)
        if column is None:
            raise UserError(
                f"'{path}' has no column `{example}`, but {_few(list(table.columns))}: name the "
                "columns in its first row, as in path,identity,camera,split"
            )
        return column

    paths, people = need(PATHS, "path"), need(PIDS, "identity")
    camera, split, query, gallery = map(find, (CAMERAS, SPLITS, QUERY, GALLERY))
    edges = box_columns(path, filled)
    read = [column[0] for column in (paths, people, camera, split, query, gallery) if column]
    rest = [name for name in table.columns if name not in {*read, *edges}]
    line = f"columns read: {', '.join([*read, *edges])}"
    numbers = range(table.first_row, table.first_row + len(paths[1]))
    for name, texts in (paths, people):
        if "" in texts:
            raise UserError(
                f"'{path}' row {numbers[texts.index('')]} has no {name}, nor have "
                f"{texts.count('') - 1} others: fill the column, or leave them out"
            )
    seen = cut_fractions(camera[1]) if camera else [""] * len(numbers)
    labels = [
        Labels(plain_identity(who), plain_number(place) if place else None, who)
        for who, place in zip(cut_fractions(people[1]), seen, strict=True)
    ]
    splits = _read_splits(path, numbers, split, _flags(path, numbers, query),
                          _flags(path, numbers, gallery))  # fmt: skip
    boxes = read_boxes(path, numbers, [filled[name] for name in edges])
    rows = map(Row, numbers, paths[1], labels, splits, boxes)
    return list(rows), line + (f"; not read: {_few(rest)}" if rest else "")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_SHOWN]) + (", ..." if len(names) > MAX_SHOWN else "")


def _flags(path: Path, numbers: Sequence[int], column: _Column | None) -> list[bool] | None:
    """Return a column of yes and no; None = the table has no such column.

    Raises: UserError for another text.
    """
    if column is None:
        return None
    name, texts = column[0], [text.lower() for text in cut_fractions(column[1])]
    for number, text in zip(numbers, texts, strict=True):
        if text not in (*YES, *NO):
            raise UserError(f"'{path}' row {number} has {name}={text!r}: write True or False")
    return [text in YES for text in texts]


def _read_splits(
    path: Path,
    numbers: Sequence[int],
    column: _Column | None,
    query: list[bool] | None,
    gallery: list[bool] | None,
) -> list[tuple[str, ...]]:
    """Return the splits of each row.

    A row of the test is in query or gallery, or in both, if the table says so anywhere.

    Raises: UserError for an unknown or missing split, or one that contradicts the other columns.
    """
    count = len(numbers)
    flags = list(zip(query or [False] * count, gallery or [False] * count, strict=True))
    flagged = [
        tuple(name for name, own in zip(("query", "gallery"), pair, strict=True) if own)
        for pair in flags
    ]
    if column is None:
        whole = ("train",) if any(flagged) else (ALL,)
        return [own or whole for own in flagged]
    name, texts = column
    roles = [role_of(text) for text in texts]
    if None in roles:
        at = roles.index(None)
        wrong = f"{name}={texts[at]!r}" if texts[at] else f"no {name}"
        raise UserError(
            f"'{path}' row {numbers[at]} has {wrong}: write {', '.join(NAMES)}, or leave out the "
            "column"
        )
    # As among folders, val is the test if no other is there.
    tested = ("test",) if {"test", "query", "gallery"} & set(roles) else ("val",)
    splits = []
    for number, role, own in zip(numbers, roles, flagged, strict=True):
        if role in tested and any(flagged) and not own:
            raise UserError(
                f"'{path}' row {number} is of the split {role}, and is neither is_query nor "
                "is_gallery: set one, or leave the row out"
            )
        if own and role == "train":
            raise UserError(
                f"'{path}' row {number} is of the split train, and is_{own[0]}: choose one"
            )
        splits.append(own if own and role in tested else ("test",) if role in tested else (role,))
    return splits


def box_columns(path: Path, names: Sequence[str] | dict[str, list[str]]) -> list[str]:
    """Return the names of the columns of boxes; empty = the table has none.

    Raises: UserError if some of the four are missing.
    """
    for wanted in BOXES:
        found = [find_name([name], names) for name in wanted]
        if None not in found:
            return [name for name in found if name]
    some = [name for edge in BOXES[0] + BOXES[1][2:] if (name := find_name([edge], names))]
    if some:
        raise UserError(
            f"'{path}' has the columns {', '.join(some)}, which are not a whole box: add the "
            f"others of {','.join(BOXES[0])}, or of x_1,y_1,x_2,y_2"
        )
    return []


def read_boxes(
    path: Path, numbers: Sequence[int], columns: Sequence[Sequence[str]]
) -> list[Box | None]:
    """Return the box of each row; None = the whole image.

    Raises: UserError for a wrong box, or if all boxes are fractions of the image.
    """
    if not columns:
        return [None] * len(numbers)
    boxes = [_read_box(path, *row) for row in zip(numbers, zip(*columns, strict=True), strict=True)]
    given = [box for box in boxes if box]
    if given and max(map(max, given)) <= 1:
        raise UserError(
            f"'{path}' has boxes between 0 and 1: write pixels, fractions times width and height"
        )
    return boxes


def _read_box(path: Path, number: int, texts: Sequence[str]) -> Box | None:
    """Return a row's box; None = none.

    Raises: UserError.
    """
    if not any(texts):
        return None
    try:
        x0, y0, x1, y1 = map(float, texts)
    except ValueError:
        x0 = y0 = x1 = y1 = math.nan
    if not (math.isfinite(x0 + y0 + x1 + y1) and x0 < x1 and y0 < y1):
        raise UserError(
            f"'{path}' row {number} has the box {','.join(texts)}: write the left, top, right and "
            "bottom edge in pixels, or leave all four empty for the whole image"
        )
    return x0, y0, x1, y1
