"""Image files with columns that describe them: of a table, labels from names, size and time."""

import hashlib
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from batnet_jax.data.files.columns import CAMERAS, PATHS, PIDS, cut_fractions, find_name
from batnet_jax.data.files.pixels import WHITE, read_picture
from batnet_jax.data.files.read_table import is_table, read_table
from batnet_jax.data.files.tree import is_image_name
from batnet_jax.data.loading.user_arrays import cut_box
from batnet_jax.data.loading.user_images import ImageFiles, list_files
from batnet_jax.errors import UserError
from batnet_jax.runtime.paths import is_file, is_folder

BOX = ("x0", "y0", "x1", "y1")
"""Columns of the part of the file that is the image, in pixels; missing for the whole file."""
FACTS = ("bytes", "modified", "digest")
"""Columns of the file: its size, the time of its last change, in seconds since 1970, and BLAKE2b of
16 bytes of its content."""
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


class DescribedImages(ImageFiles):
    """Image files, or boxes in them, and their columns; a source for an `ImageStore`.

    Attributes:
      filenames: n paths.
      columns: [n] by name; with `bytes` and `modified` once sizes and times have been read.
      digests: [n] str, of the files whose bytes were read; "" for the others.
      alpha: the treatment of transparent pixels around a box, one of `pixels.ALPHA`.
    """

    def __init__(
        self,
        filenames: Sequence[str],
        columns: Mapping[str, np.ndarray],
        alpha: str = WHITE,
        *,
        look: bool = True,
    ):
        """Read the files' sizes and times; if `look` is False, `take` reads them later."""
        super().__init__(filenames)
        self.columns = dict(columns)
        self._looked = look
        if look:
            facts = [_stat(name) for name in self.filenames]
            self.columns["bytes"] = np.array([size for size, _ in facts], np.int64)
            self.columns["modified"] = np.array([time for _, time in facts], np.float64)
        self.digests = np.zeros(len(self), "<U32")
        self.alpha = alpha
        self._frame = threading.local()

    def encoded(self, i: int) -> bytes:
        """Return the bytes of file i, or its box as a PNG; see the base class."""
        box = self.box(i)
        name = self.filenames[i]
        if box is None:
            return self._read(i)
        if getattr(self._frame, "name", None) != name:
            try:
                pixels = read_picture(self._read(i), self.alpha).pixels
            except UserError as error:
                raise UserError(
                    f"'{name}' cannot be decoded as an image ({error}): replace or remove it"
                ) from error
            self._frame.name, self._frame.pixels = name, pixels
            self._frame.digest = self.digests[i]
        self.digests[i] = self._frame.digest
        part = cut_box(self._frame.pixels, np.array(box), f"'{name}': the box")
        return cv2.imencode(".png", part[:, :, ::-1])[1].tobytes()

    def box(self, i: int) -> tuple[float, ...] | None:
        """Return the box of image i; None for the whole file."""
        return box_at(self.columns, i)

    def digest(self, i: int) -> str:
        """Read file i and return its digest.

        Raises: UserError if the file cannot be read.
        """
        self._read(i)
        return str(self.digests[i])

    def take(self, chosen: Sequence[int]) -> "DescribedImages":
        """Return some of the images; sizes and times that are known are not read again."""
        names = [self.filenames[i] for i in chosen]
        columns = {name: values[list(chosen)] for name, values in self.columns.items()}
        few = DescribedImages(names, columns, self.alpha, look=not self._looked)
        few._looked = True
        few.digests = self.digests[list(chosen)]
        return few

    def _read(self, i: int) -> bytes:
        """Return the bytes of file i, and keep their digest."""
        content = super().encoded(i)
        self.digests[i] = hashlib.blake2b(content, digest_size=16).hexdigest()
        return content


def box_at(columns: Mapping[str, np.ndarray], i: int) -> tuple[float, ...] | None:
    """Return the box in the columns of image i; None if there is none."""
    if not all(name in columns and columns[name].dtype.kind in "iuf" for name in BOX):
        return None
    box = tuple(float(columns[name][i]) for name in BOX)
    return box if np.isfinite(box).all() else None


def describe_images(
    place: Path, *, layout: str = "", pattern: str = "", alpha: str = WHITE, look: bool = True
) -> DescribedImages:
    """List images, with columns that describe them.

    Args:
      place: a table, see `data.sources.table`, whose other columns are kept by their names; or a
        folder, an image or a list, see `list_files`.
      layout: the meaning of a folder's levels, see `data.layout`; "" = no labels from folders.
      pattern: of the paths below a folder, see `data.pattern`; "" = no pattern.
      alpha: see `DescribedImages`.
      look: see `DescribedImages`.

    Raises: UserError if there is no image, a row or a name of the table is wrong, or a name does
      not fit the layout or the pattern.
    """
    if is_table(place) and (table := _read_described(place)):
        return DescribedImages(*table, alpha, look=look)
    paths = list_files(place)
    return DescribedImages(paths, _labels(place, paths, layout, pattern), alpha, look=look)


def as_values(texts: Sequence[str]) -> np.ndarray:
    """Return a column of texts, "" if missing, as integers, floats with NaN, or the texts."""
    known = [text for text in texts if text]
    if known and all(_WHOLE.fullmatch(text) for text in known):
        if len(known) == len(texts):
            return np.array([int(text) for text in texts], np.int64)
        if all(abs(int(text)) <= 2**53 for text in known):
            return np.array([float(text or "nan") for text in texts])
    elif known and all(_NUMBER.fullmatch(text) and not _is_code(text) for text in known):
        return np.array([float(text or "nan") for text in texts])
    return np.array(texts, np.str_) if texts else np.empty(0, "<U1")


def _is_code(text: str) -> bool:
    """Return whether digits are a name, not a number: they begin with 0 or are more than 18."""
    digits = text.lstrip("+-")
    return digits.isdigit() and (digits.startswith("0") or len(digits) > 18) and digits != "0"


def _stat(name: str) -> tuple[int, float]:
    """Return the size of a file and the time of its change; -1 and NaN if there is no file."""
    try:
        facts = os.stat(name)
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return -1, float("nan")
    return facts.st_size, facts.st_mtime_ns / 1e9


def _read_described(place: Path) -> tuple[list[str], dict[str, np.ndarray]] | None:
    """Return the paths and the columns of a table; None if it is a list of paths.

    Raises: UserError.
    """
    from batnet_jax.data.sources.file_labels import Labels, plain_identity, plain_number
    from batnet_jax.data.sources.table import find_files  # TensorFlow Datasets: 1 s to import
    from batnet_jax.data.sources.table_rows import Row, box_columns, read_boxes

    if not is_file(place):
        raise UserError(f"'{place}' does not exist: name a table, a folder, an image or a list")
    table = read_table(place)
    columns = table.columns
    named = find_name(PATHS, columns)
    if named is None:
        if len(columns) == 1 and is_image_name(next(iter(columns))):
            return None
        shown = ", ".join(list(columns)[:8])
        raise UserError(f"'{place}' has no column `path`, but {shown}: name it in the first row")
    numbers = range(table.first_row, table.first_row + len(columns[named]))
    if "" in columns[named]:
        number = numbers[columns[named].index("")]
        raise UserError(f"'{place}' row {number} has no {named}: fill it, or leave the row out")
    edges = box_columns(place, columns)
    boxes = read_boxes(place, numbers, [columns[name] for name in edges])
    empty = Labels("", None, "")
    rows = [
        Row(number, path, empty, (), box)
        for number, path, box in zip(numbers, columns[named], boxes, strict=True)
    ]
    files = find_files(place, rows)
    found: dict[str, np.ndarray] = {}
    who, camera = find_name(PIDS, columns), find_name(CAMERAS, columns)
    if who:
        texts = cut_fractions(columns[who])
        found["identity"] = as_values([plain_identity(text) for text in texts])
    if camera:
        texts = cut_fractions(columns[camera])
        found["camera"] = as_values([plain_number(text) if text else "" for text in texts])
    if edges:
        whole = (float("nan"),) * 4
        found |= dict(zip(BOX, np.array([box or whole for box in boxes]).T.copy(), strict=True))
    for name in columns.keys() - {named, who, camera, *edges}:
        if name in found or name in FACTS:
            raise UserError(
                f"'{place}' has a column {name!r}, and so has the file of features: rename it"
            )
    rest = [name for name in columns if name not in {named, who, camera, *edges}]
    found |= {name: as_values(columns[name]) for name in rest if any(columns[name])}
    return [files[row.path].place.removeprefix("./") for row in rows], found


def _labels(place: Path, paths: Sequence[str], layout: str, pattern: str) -> dict[str, np.ndarray]:
    """Read the columns `identity` and `camera` from the paths below a folder.

    Without a layout and a pattern, all names must begin as those of the public data sets do, such
    as 0001_c1s1_001051_00.jpg; otherwise no columns are read.

    Raises: UserError if a path does not fit the layout or the pattern.
    """
    if not is_folder(place):
        return {}
    from batnet_jax.data.sources.file_labels import LABELLED, compile_pattern
    from batnet_jax.data.sources.layout import SPLIT, find_levels, parse_layout, read_labels

    names = [os.path.relpath(path, place).replace(os.sep, "/") for path in paths]
    given, compiled = parse_layout(layout), compile_pattern(pattern)
    levels: Any = given or ()
    if given is None and compiled is None:
        if not all(LABELLED.match(os.path.basename(name)) for name in names):
            return {}
    elif given is None and compiled is not None and "pid" not in compiled.groupindex:
        levels = find_levels(names, str(place))
    elif given and given[0] == SPLIT:
        levels, names = given[1:], [name.partition("/")[2] or name for name in names]
    found = []
    for name in names:
        try:
            found.append(read_labels(name, levels, compiled, explicit=given is not None))
        except UserError as error:
            raise UserError(f"'{place}/{name}' {error}") from None
    columns = {"identity": as_values([labels.identity for labels in found])}
    if any(labels.camera for labels in found):
        columns["camera"] = as_values([labels.camera or "" for labels in found])
    return columns
