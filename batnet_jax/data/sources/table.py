"""A data set from a table: a row for each image, with its path, person, camera, split and box.

The table is a .csv, a .tsv or a .parquet, whose columns have any of the usual names: `path`,
relative to the table's folder; `identity` or `label`; and, if known, `camera`, `split`, `is_query`
and `is_gallery`, and a box in pixels, `x0,y0,x1,y1` or `x_1,y_1,x_2,y_2`. So the tables of
open-metric-learning are read as they are.

A table without splits gives a quarter of the identities to the test. A test without queries is
divided into query and gallery. Both follow the rules for folders.
"""

import hashlib
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tensorflow_datasets as tfds

from batnet_jax.data.builder import NO_READING, Reading
from batnet_jax.data.files.pixels import read_picture
from batnet_jax.data.files.safe_open import read_whole
from batnet_jax.data.files.tree import FileTree
from batnet_jax.data.loading.user_arrays import cut_box
from batnet_jax.data.sources.folder import Folder, Found, LabelledImage
from batnet_jax.data.sources.table_rows import ALL, Row, read_rows
from batnet_jax.errors import UserError
from batnet_jax.runtime.read_files import reason


class _File(NamedTuple):
    """An image file of a table."""

    place: str
    """Its path, from the current folder."""
    size: int
    time: int


class Table(Folder):
    """A data set of the user's own images, from a table.

    The name of the builder config is a fingerprint of the rows and of the images' files.
    """

    WANTED = "a table of images"
    NO_CAMERA = "names no camera"
    IF_CAMERAS = "if cameras are known, add a column `camera`"
    SET_CAMERAS = "fill in the column"
    OTHER_CAMERAS = "add other cameras"

    @classmethod
    def choose_config(
        cls, variant: str, manual_dir: str, reading: Reading = NO_READING
    ) -> tfds.core.BuilderConfig:
        """Return a config named by a fingerprint of the rows and of the images' files.

        Raises: UserError if a column or a file is missing, or a row is wrong.
        """
        super(Folder, cls).choose_config(variant, manual_dir)
        if reading != NO_READING:
            raise UserError(
                f"data.layout and data.pattern are for folders: the columns of '{manual_dir}' tell "
                "the labels, so empty both"
            )
        rows, _ = read_rows(Path(manual_dir))
        files = find_files(Path(manual_dir), rows)
        facts = repr(sorted((*row[1:4], row.name, *files[row.path][1:]) for row in rows))
        name = hashlib.sha256(facts.encode(errors="replace")).hexdigest()[:16]
        return tfds.core.BuilderConfig(name=name)

    def read_images(self) -> Found:
        """See the base class."""
        path = self.manual_path
        rows, line = read_rows(path)
        files = find_files(path, rows)
        by_split: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            for split in row.splits:
                by_split[split].append(row)
        parts, images = {}, {}
        for split, name in _parts(path, by_split).items():
            parts[split] = tree = RowImages(path, by_split[name], files)
            images[split] = [LabelledImage(n, tree.rows[n].labels) for n in tree.names]
        lines, used = [line], set(_parts(path, by_split).values())
        both = parts["query"].rows.keys() & parts["gallery"].rows.keys() if "query" in parts else ()
        if both:
            lines.append(
                f"{len(both):,} images are in query and in gallery: set eval.leave_out_own=True, "
                "or each finds itself"
            )
        if left := sorted(by_split.keys() - used):
            count = sum(len(by_split[split]) for split in left)
            lines.append(f"not read: {count:,} images of the split {' and '.join(left)}")
        return Found(parts, images, lines)


def _parts(path: Path, found: Mapping[str, Sequence[Row]]) -> dict[str, str]:
    """Return the split that each part of the data set is read from.

    Raises: UserError if a split is missing.
    """
    if ALL in found:
        return {ALL: ALL}
    parts = {"train": "train", "test": "test"}
    if {"query", "gallery"} & found.keys():
        gallery = "gallery" if "gallery" in found or "test" not in found else "test"
        parts = {"train": "train", "query": "query", "gallery": gallery}
    for split in parts.values():
        if split not in found:
            raise UserError(
                f"'{path}' has rows of {', '.join(sorted(found))}, and none of the split {split}: "
                "add some, or leave the column out: then a quarter of the people is the test"
            )
    return parts


def find_files(path: Path, rows: Sequence[Row]) -> dict[str, _File]:
    """Return the file of each path in a table, which is relative to the table's folder.

    Raises: UserError naming the first row whose file is missing.
    """
    files: dict[str, _File] = {}
    lost: list[tuple[Row, str]] = []
    for row in {row.path: row for row in reversed(rows)}.values():
        # A table that was written on Windows may have its own kind of slashes.
        spellings = dict.fromkeys((row.path, row.path.replace("\\", "/")))
        places = [os.path.join(path.parent, spelling) for spelling in spellings]
        place = next(filter(os.path.exists, places), places[0])
        try:
            facts = os.stat(place)
            if not stat.S_ISREG(facts.st_mode):
                raise OSError("it is not a file")
            files[row.path] = _File(place, facts.st_size, facts.st_mtime_ns)
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            lost.append((row, reason(error) if isinstance(error, OSError) else str(error)))
    if lost:
        row, why = min(lost)
        more = f", and so are {len(lost) - 1} others" if len(lost) > 1 else ""
        raise UserError(
            f"'{path}' row {row.number}: '{row.path}' is missing in '{path.parent}' ({why}){more}: "
            "write paths relative to the table's folder, or whole paths"
        )
    return files


class RowImages(FileTree):
    """The images of some rows of a table: files, and boxes cut out of files.

    Attributes:
      rows: by name, see `Row.name`.
    """

    def __init__(self, path: Path, rows: Sequence[Row], files: Mapping[str, _File]):
        """Name the rows.

        Raises: UserError if two rows are the same image.
        """
        self.location = str(path)
        self.rows: dict[str, Row] = {}
        self._files = files
        self._frame: tuple[str, np.ndarray] | None = None
        for row in rows:
            twin = self.rows.setdefault(row.name, row)
            if twin is not row:
                raise UserError(
                    f"'{path}' rows {twin.number} and {row.number} are the same image, "
                    f"'{row.name}', in the same split: leave one out"
                )

    @cached_property
    def names(self) -> list[str]:
        """The names of the rows, sorted."""
        return sorted(self.rows)

    def left_out(self) -> Counter[str]:
        """Count nothing: the table names all files."""
        return Counter()

    def read(self, name: str) -> bytes:
        """Return the content of the file of a row, or its box as a PNG.

        Raises: UserError if the file cannot be read, or the box lies outside the image.
        """
        row = self.rows[name]
        if row.box is not None:
            box = cut_box(self._read_frame(row), np.array(row.box), f"'{self.location}' row "
                          f"{row.number}: the box")  # fmt: skip
            return cv2.imencode(".png", box[:, :, ::-1])[1].tobytes()
        return self._read_file(row)

    def _read_file(self, row: Row) -> bytes:
        try:
            return read_whole(self._files[row.path].place)
        except OSError as error:
            raise UserError(
                f"'{self.location}' row {row.number}: '{row.path}' cannot be read "
                f"({reason(error)}): restore it, or leave the row out"
            ) from error

    def _read_frame(self, row: Row) -> np.ndarray:
        """Return the pixels of a row's file, [h, w, 3] RGB; kept for the boxes that follow."""
        if self._frame is None or self._frame[0] != row.path:
            try:
                self._frame = row.path, read_picture(self._read_file(row)).pixels
            except UserError as error:
                raise UserError(
                    f"'{self.location}' row {row.number}: '{row.path}' cannot be decoded "
                    f"({error}): restore it, or leave the row out"
                ) from error
        return self._frame[1]
