"""A user's own images, in one of three layouts.

* Market-1501's, see `market.py`: `bounding_box_train/`, `query/`, `bounding_box_test/`.
* The same with the names `train/`, `query/` and `gallery/`; or only `train/` and `test/`, where
  `splits.query_and_gallery` divides the test images.
* Only one sub-folder for each identity: a quarter of the identities is used for the test.

An image's identity is its sub-folder or, without one, the number at the start of its filename. Its
camera is the number after a `c` at the start of the filename or after a `_`. Either all filenames
have a camera or none has.
"""

import hashlib
import itertools
import math
import os
import posixpath
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from batnet_jax.data.builder import UNKNOWN_CAMERA, Photo, ReIDBuilder, SplitSource
from batnet_jax.data.files.find_dataset import list_candidates
from batnet_jax.data.files.tree import IMAGES, FileTree, is_hidden, is_image_name, open_tree
from batnet_jax.data.sources.market import FOLDERS, JUNK, MARKERS, make_source
from batnet_jax.data.splits import query_and_gallery
from batnet_jax.errors import UserError

LAYOUTS: tuple[Mapping[str, str], ...] = (
    FOLDERS,
    {"train": "train", "query": "query", "gallery": "gallery"},
    {"train": "train", "test": "test"},
)
ALL_MARKERS = tuple(dict.fromkeys((*MARKERS, "gallery", "train", "test")))
TEST_SHARE = 0.25
"""Fraction of the identities used for the test, in the layout of one sub-folder for each."""
MAX_DEPTH = 20
"""Levels of nested folders searched for the folders of identities."""
PID = re.compile(r"(-1|[0-9]{1,9})(?=[_.])")
CAMERA = re.compile(r"(?:^|_)c([0-9]{1,9})(?![0-9])", re.IGNORECASE)


class _Image(NamedTuple):
    filename: str
    identity: str
    camera: int | None


class Folder(ReIDBuilder):
    """A data set of the user's own images.

    The name of the builder config is a fingerprint of the files, so that added, removed or replaced
    images lead to a new copy. Old copies stay until the user deletes them.
    """

    TITLE = "a data set of your own"
    WANTED = "/, ".join(MARKERS) + "/, or a sub-folder for each identity,"

    @classmethod
    def choose_config(cls, variant: str, manual_dir: str) -> tfds.core.BuilderConfig:
        """Return a config named by a fingerprint of the files in `manual_dir`.

        Raises: UserError if there are no images.
        """
        super().choose_config(variant, manual_dir)
        parts = [tree.fingerprint() for tree in cls._parts(manual_dir).values()]
        return tfds.core.BuilderConfig(
            name=hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
        )

    def sources(self) -> dict[str, SplitSource]:
        """See the base class."""
        parts = self._parts(self.manual_path)
        found = {split: _read(tree) for split, tree in parts.items()}
        _check_cameras(parts, found)
        images = {split: [i for i in f if i.identity != str(JUNK)] for split, f in found.items()}
        junk = {split: len(found[split]) - len(images[split]) for split in found}
        if "all" in parts:
            images = _choose_tested(images["all"])
            parts = dict.fromkeys(images, parts["all"])
        self._names = _names([image for found in images.values() for image in found])
        numbers = {name: number for number, name in enumerate(self._names)}
        sources = {}
        for split, found in images.items():
            photos = [
                Photo(
                    image.filename,
                    numbers[image.identity] if numbers else int(image.identity),
                    UNKNOWN_CAMERA if image.camera is None else image.camera,
                )
                for image in found
            ]
            if not photos:
                raise UserError(
                    f"'{parts[split].location}' is missing or holds no images but junk: add some"
                )
            sources[split] = make_source(photos, parts[split], junk=junk.get(split, 0))
        if "test" in sources:
            sources = {"train": sources["train"], **_divide(sources["test"], parts["test"])}
        self._warn(_split_warnings(sources))
        return sources

    def identity_names(self) -> list[str]:
        """See the base class; empty where identities are numbers."""
        return self._names

    @classmethod
    def _parts(cls, manual_dir: str | Path) -> dict[str, FileTree]:
        """Return the trees to read: train, query and gallery; train and test; or all."""
        identities = _find_identity_folders(Path(manual_dir))
        if identities is not None:
            return {"all": identities}
        tree = cls.find(manual_dir, ALL_MARKERS)
        trees = [
            {split: tree.below(folder) for split, folder in layout.items()} for layout in LAYOUTS
        ]
        # Take the layout with the most parts; the message names its missing part.
        parts = max(trees, key=lambda parts: sum(bool(part.images()) for part in parts.values()))
        for part in parts.values():
            if not part.images():
                raise UserError(
                    f"'{part.location}' is missing or holds no images: Market's layout is "
                    f"{', '.join(MARKERS)}, each with {IMAGES} files; or give one "
                    "sub-folder for each identity"
                )
        return parts


def _find_identity_folders(path: Path) -> FileTree | None:
    """Find a tree with only one folder of images for each identity, at `path` or nested below it.

    The search reads as few folders as possible, because `path` may be the root of a disk.
    """
    if path.is_dir():
        for _ in range(MAX_DEPTH):
            folders = [p for p in list_candidates(path) if p.is_dir()]
            near = (*folders, *itertools.chain(*map(list_candidates, folders)))
            if any(p.name in ALL_MARKERS for p in near):
                return None
            if sum(_has_image(p) for p in folders) > 1:
                return open_tree(path)
            if len(folders) != 1:
                return None
            path = folders[0]
        return None
    if path.suffix.lower() not in (".zip", ".tar") or not path.is_file():
        return None
    tree = open_tree(path)
    while len(tops := {name.split("/")[0] for name in tree.images()}) == 1:
        below = tree.below(*tops)
        if not below.images():  # the only top is an image
            return None
        tree = below
    inside = all("/" in name for name in tree.images())
    marked = any(part in ALL_MARKERS for name in tree.names for part in name.split("/")[:2])
    return tree if len(tops) > 1 and inside and not marked else None


def _has_image(folder: Path) -> bool:
    try:
        walk = ((os.path.relpath(at, folder), files) for at, _, files in os.walk(folder))
        names = (name for at, files in walk if not is_hidden(at) for name in files)
        return any(map(is_image_name, itertools.islice(names, 1000)))
    except (OSError, RecursionError):  # no permission, or too many nested folders
        return False


def _read(tree: FileTree) -> list[_Image]:
    """Return the images of a tree with their labels, sorted by filename.

    Raises: UserError if a filename has no identity.
    """
    found = []
    for name in tree.images():
        base = posixpath.basename(name)
        match, camera = PID.match(base), CAMERA.search(base)
        inside = name.split("/")[0] if "/" in name else None
        if inside is None and match is None:
            raise UserError(
                f"'{tree.location}/{name}' does not begin with an identity's number, as "
                "0001_c1s1_001051_00.jpg does, and is not in a sub-folder named by one: rename or "
                "remove it"
            )
        identity = inside if inside is not None else match[1]  # type: ignore[index]
        identity = str(int(identity)) if _is_number(identity) else identity  # 0001 is 1
        found.append(_Image(name, identity, int(camera[1]) if camera else None))
    return found


def _check_cameras(parts: Mapping[str, FileTree], images: Mapping[str, list[_Image]]) -> None:
    """Refuse a data set with cameras in only some of the filenames."""
    without = [
        f"{parts[split].location}/{image.filename}"
        for split, found in images.items()
        for image in found
        if image.camera is None
    ]
    number = sum(map(len, images.values()))
    if 0 < len(without) < number:
        raise UserError(
            f"'{without[0]}' names no camera (c and a number, at the start or after a _), nor do "
            f"{len(without) - 1} others of {number} images: name one for all of them or for none"
        )


def _names(images: list[_Image]) -> list[str]:
    """Return the sorted names of identities, whose index is the pid; empty if all are numbers."""
    names = sorted({image.identity for image in images})
    return [] if all(_is_number(name) for name in names) else names


def _is_number(name: str) -> bool:
    return name == str(JUNK) or (name.isascii() and name.isdecimal() and len(name) < 10)


def _choose_tested(images: list[_Image]) -> dict[str, list[_Image]]:
    """Choose the test identities by the lowest hashes of their names.

    With new identities, few others move between training and test.
    """
    people = {image.identity for image in images}
    ranked = sorted(people, key=lambda name: (zlib.crc32(name.encode(errors="replace")), name))
    tested = set(ranked[: math.ceil(TEST_SHARE * len(ranked))])
    return {
        "train": [image for image in images if image.identity not in tested],
        "test": [image for image in images if image.identity in tested],
    }


def _divide(test: SplitSource, tree: FileTree) -> dict[str, SplitSource]:
    """Divide a test split into query and gallery.

    Raises: UserError if no identity can be a query.
    """
    photos = test.photos
    rows = query_and_gallery(
        np.array([photo.pid for photo in photos]), np.array([photo.camera for photo in photos])
    )
    if not len(rows[0]):
        raise UserError(
            f"'{tree.location}' has no test identity with two images (from two cameras, where "
            "cameras are named): add some"
        )
    return {
        split: make_source([photos[i] for i in chosen], tree)
        for split, chosen in zip(("query", "gallery"), rows, strict=True)
    }


def _split_warnings(sources: Mapping[str, SplitSource]) -> list[str]:
    """Return warnings about splits that are allowed but probably a mistake."""
    train, query, gallery = (
        {p.pid for p in sources[split].photos} for split in ("train", "query", "gallery")
    )
    lines = []
    if shared := train & (query | gallery):
        lines.append(
            f"{len(shared)} identities are in train and also in query or gallery: results would "
            "be too good"
        )
    if lost := query - gallery:
        lines.append(f"{len(lost)} identities of query are not in gallery: they do not count")
    return lines
