"""The MATLAB files of CUHK03: the authors' images and test sets, the lists of the new protocol.

`cuhk-03.mat` is HDF5 (MATLAB v7.3). Its cell arrays `detected` and `labeled` refer to one cell
array for each of the 5 pairs of cameras, of shape persons x 10: five images of the first view, then
five of the second; some are empty. HDF5 reverses MATLAB's axes, so an image is [3, w, h]. The cell
array `testsets` refers to 20 arrays of rows (pair, person), 1-based.

`cuhk03_new_protocol_config_*.mat` (Zhong et al., CVPR 2017) is MATLAB v5: lists of all images with
their labels, and 1-based indices into the lists. A filename encodes the position of the image in
`cuhk-03.mat`: PAIR_PERSON_VIEW_IMAGE.png, all 1-based, with images 1 to 10 over both views.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import cv2
import h5py
import numpy as np

from batnet_jax.data.builder import Photo
from batnet_jax.data.files.matlab_v5 import read_mat
from batnet_jax.data.files.safe_open import MAX_BYTES
from batnet_jax.data.files.tree import FileTree
from batnet_jax.errors import UserError, one_line

NAME = re.compile(r"([1-9])_([0-9]{3,6})_([12])_([0-9]{2})\.png")
IMAGES = 10
"""Images of a person; the first half is of the first view."""
LISTS = {"train": "train_idx", "query": "query_idx", "gallery": "gallery_idx"}
MAX_PID = 10**9
MAX_SIDE = 10_000
MAX_PAIRS, MAX_PEOPLE = 9, 999_999  # limits of the digits in a filename
PNG_OPTIONS = (cv2.IMWRITE_PNG_COMPRESSION, 3)


def format_name(pair: int, person: int, image: int) -> str:
    """Return the filename of an image from its 0-based indices."""
    return f"{pair + 1}_{person + 1:03}_{1 + (image >= IMAGES // 2)}_{image + 1:02}.png"


class Release:
    """An open `cuhk-03.mat`; garbage collection closes it.

    Raises: UserError in the constructor and in all methods, if the file is damaged.
    """

    def __init__(self, tree: FileTree, name: str):
        self.location = f"{tree.location}/{name}"
        file = tree.open_binary(name)
        with self.reading():
            self.file = h5py.File(file, "r")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn errors of HDF5 into UserErrors."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # a damaged file raises many types
            raise UserError(
                f"'{self.location}' cannot be read as MATLAB v7.3 ({one_line(error)}): restore it"
            ) from error

    def cells(self, variable: str) -> list[h5py.Dataset]:
        """Return the arrays in a variable that is a cell array."""
        with self.reading():
            if variable not in self.file:
                raise UserError(
                    f"'{self.location}' has no variable '{variable}', as cuhk-03.mat does: "
                    "restore it"
                )
            if not isinstance(self.file.get(variable, getlink=True), h5py.HardLink):
                raise UserError(
                    f"'{self.location}': '{variable}' is a link, maybe into another file: "
                    "restore the file"
                )
            references = self.references(self.file[variable], variable).ravel()
            return [self.array(reference, variable) for reference in references]

    def references(self, dataset: Any, place: str) -> np.ndarray:
        """Return the references in a cell array, in its shape."""
        kind = isinstance(dataset, h5py.Dataset) and h5py.check_ref_dtype(dataset.dtype)
        if kind is not h5py.Reference:
            raise UserError(f"'{self.location}': '{place}' is not a cell array: restore the file")
        return self.read(dataset, place)

    def read(self, dataset: h5py.Dataset, place: str) -> np.ndarray:
        """Return the content of an array in this file, of limited size.

        An HDF5 array may take its bytes from any other file, and may declare any size.
        """
        if dataset.external or dataset.is_virtual:
            raise UserError(
                f"'{self.location}': '{place}' takes its content from another file: restore the "
                "file"
            )
        size, chunk = dataset.size or 0, math.prod(dataset.chunks or ())
        if max(size, chunk) * dataset.dtype.itemsize > MAX_BYTES:
            raise UserError(f"'{self.location}': '{place}' is of an absurd size: restore the file")
        return np.asarray(dataset[()])

    def array(self, reference: h5py.Reference, place: str) -> h5py.Dataset:
        """Return the array that a cell refers to."""
        found = self.file[reference] if reference else None
        if not isinstance(found, h5py.Dataset):
            raise UserError(
                f"'{self.location}': '{place}' refers to something that is not there: restore the "
                "file"
            )
        return found

    def test_set(self, number: int) -> set[tuple[int, int]]:
        """The persons of a classic test set, as places (pair, person) from 0.

        Args:
          number: from 1.
        """
        sets = self.cells("testsets")
        if number > len(sets):
            raise UserError(
                f"'{self.location}' has {len(sets)} test sets, not {number}: restore it"
            )
        with self.reading():
            rows = self.read(sets[number - 1], "testsets").T
            if rows.ndim != 2 or rows.shape[1] != 2 or not len(rows) or (rows != rows // 1).any():
                raise UserError(
                    f"'{self.location}': test set {number} is not a list of (pair, person): "
                    "restore the file"
                )
            return {(int(pair) - 1, int(person) - 1) for pair, person in rows}


class MatImages(FileTree):
    """The images in a `cuhk-03.mat` with one kind of boxes, as a folder of PNG files."""

    def __init__(self, release: Release, boxes: str):
        """List the images that exist.

        Args:
          release: the open file.
          boxes: 'labeled' or 'detected'.
        """
        self.location = f"{release.location}/{boxes}"
        self._release = release
        self._references: dict[str, h5py.Reference] = {}
        self.people: list[int] = []
        """Number of persons of each pair of cameras."""
        for pair, cells in enumerate(release.cells(boxes)):
            with release.reading():
                table = release.references(cells, boxes)
                if table.ndim != 2 or len(table) != IMAGES:
                    raise UserError(
                        f"'{release.location}': '{boxes}' of camera pair {pair + 1} is not "
                        f"persons x {IMAGES}: restore the file"
                    )
                if pair >= MAX_PAIRS or table.shape[1] > MAX_PEOPLE:
                    raise UserError(
                        f"'{release.location}': '{boxes}' has more than {MAX_PAIRS} pairs of "
                        f"cameras, or one of more than {MAX_PEOPLE:,} persons: restore the file"
                    )
                self.people.append(table.shape[1])
                for image, person in np.ndindex(*table.shape):
                    name = format_name(pair, person, image)
                    if not _is_empty(release.array(table[image, person], name)):
                        self._references[name] = table[image, person]

    @cached_property
    def names(self) -> list[str]:
        """See the base class; empty cells have no name."""
        return sorted(self._references)

    def _read(self, name: str) -> bytes:
        with self._release.reading():
            array = self._release.array(self._references[name], name)
            if (
                array.ndim != 3
                or array.shape[0] != 3
                or array.dtype != np.uint8
                or not 0 < min(array.shape) <= max(array.shape) <= MAX_SIDE
            ):
                raise UserError(f"'{self.location}/{name}' is not a colour image: restore the file")
            pixels = self._release.read(array, name).transpose(2, 1, 0)
        encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]), PNG_OPTIONS)[1]
        return encoded.tobytes()


def _is_empty(array: h5py.Dataset) -> bool:
    """Return whether an array is MATLAB's empty array, which is stored as its shape."""
    return array.size == 0 or (array.ndim == 1 and array.size <= 3)


def read_protocol(tree: FileTree, name: str) -> dict[str, list[Photo]]:
    """Return the photos of each split of the new protocol, sorted by filename.

    Args:
      tree: the tree with the lists.
      name: the filename, `cuhk03_new_protocol_config_*.mat`.

    Raises: UserError if the file is damaged or contradicts itself.
    """
    location = f"{tree.location}/{name}"
    variables = _load(tree.read(name), location)
    filenames = _names(variables["filelist"], location)
    pids = _numbers(variables["labels"], "labels", len(filenames), MAX_PID, location)
    cameras = _numbers(variables["camId"], "camId", len(filenames), 2, location)
    photos = list(map(Photo, filenames, pids, cameras))
    for photo in photos:
        match = NAME.fullmatch(photo.filename)
        if match is None or int(match[3]) != photo.camera or not 1 <= int(match[4]) <= IMAGES:
            raise UserError(
                f"'{location}': {photo.filename!r} of camera {photo.camera} is not named "
                "PAIR_PERSON_CAMERA_IMAGE.png, as 1_001_1_01.png is: restore the file"
            )
    splits, seen = {}, set()
    for split, variable in LISTS.items():
        rows = _numbers(variables[variable], variable, None, len(photos), location)
        if not rows or len(set(rows)) < len(rows) or seen & set(rows):
            raise UserError(
                f"'{location}': '{variable}' is empty, or repeats an image: restore the file"
            )
        seen.update(rows)
        splits[split] = sorted(photos[row - 1] for row in rows)
    return splits


def _load(content: bytes, location: str) -> dict[str, np.ndarray | list[str]]:
    wanted = ["filelist", "labels", "camId", *LISTS.values()]
    try:
        variables = read_mat(content, wanted)
    except ValueError as error:
        raise UserError(
            f"'{location}' cannot be read as MATLAB v5 ({error}): restore it"
        ) from error
    for name in wanted:
        if name not in variables:
            raise UserError(f"'{location}' has no variable '{name}': restore it")
    return variables


def _names(names: np.ndarray | list[str], location: str) -> list[str]:
    """Return the filenames; refuse a variable that is not a list of different strings."""
    if not isinstance(names, list) or not names:
        raise UserError(f"'{location}': 'filelist' is not a list of file names: restore the file")
    twice = min((name for name, times in Counter(names).items() if times > 1), default=None)
    if twice is not None:
        raise UserError(f"'{location}' lists {twice!r} twice: restore it")
    return names


def _numbers(
    array: np.ndarray | list[str], name: str, length: int | None, limit: int, location: str
) -> list[int]:
    """Return the entries of an array; refuse all but whole numbers from 1 to `limit`."""
    numbers = np.asarray(array)
    if length is not None and len(numbers) != length:
        raise UserError(
            f"'{location}': '{name}' has {len(numbers):,} entries and 'filelist' {length:,}: "
            "restore the file"
        )
    numeric = numbers.dtype.kind in "iuf"
    inside = numeric and np.all((numbers >= 1) & (numbers <= limit))  # False for NaN
    if not inside or np.any(numbers % 1):
        raise UserError(
            f"'{location}': '{name}' holds more than whole numbers from 1 to {limit:,}: restore "
            "the file"
        )
    return numbers.astype(np.int64).tolist()
