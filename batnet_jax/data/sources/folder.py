"""A user's own images, in one of three layouts.

* Market-1501's, see `market.py`: `bounding_box_train/`, `query/`, `bounding_box_test/`.
* The same with the names `train/`, `query/` and `gallery/`. Of `train/` and `test/` alone, the test
  images are divided into queries and gallery by `splits.query_and_gallery`.
* One sub-folder an identity and nothing else: a quarter of the identities is kept for the test.

An image's identity is the sub-folder that it lies in, else the number that its name begins with;
its camera is the number after a `c` that its name begins with or that stands behind a `_`. Cameras
may be missing, but then from all names.
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
from batnet_jax.data.files.tree import IMAGE_SUFFIXES, IMAGES, FileTree, open_tree
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
"""Of the identities, if there are only their sub-folders."""
MAX_DEPTH = 20
"""Folders, one in another, that are looked through for those of identities."""
PID = re.compile(r"(-1|[0-9]{1,9})(?=[_.])")
CAMERA = re.compile(r"(?:^|_)c([0-9]{1,9})(?![0-9])", re.IGNORECASE)


class _Image(NamedTuple):
    filename: str
    identity: str
    camera: int | None


class Folder(ReIDBuilder):
    """Images of one's own.

    The config's name is a fingerprint of the files, so that images that were added, removed or
    replaced since lead to a fresh copy; older copies stay until the user deletes them.
    """

    TITLE = "a data set of your own"
    WANTED = "/, ".join(MARKERS) + "/, or a sub-folder for each identity,"

    @classmethod
    def choose_config(cls, variant: str, manual_dir: str) -> tfds.core.BuilderConfig:
        """A config named by the state of the files in `manual_dir`.

        Raises: UserError if there are none.
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
        self._warn(_doubts(sources))
        return sources

    def identity_names(self) -> list[str]:
        """See the base class; empty where identities are numbers."""
        return self._names

    @classmethod
    def _parts(cls, manual_dir: str | Path) -> dict[str, FileTree]:
        """The trees to read: train, query and gallery; train and test; or all."""
        flat = _find_flat(Path(manual_dir))
        if flat is not None:
            return {"all": flat}
        tree = cls.find(manual_dir, ALL_MARKERS)
        trees = [
            {split: tree.below(folder) for split, folder in layout.items()} for layout in LAYOUTS
        ]
        # The layout of which most is there; the message is about the rest of it.
        parts = max(trees, key=lambda parts: sum(bool(part.images()) for part in parts.values()))
        for part in parts.values():
            if not part.images():
                raise UserError(
                    f"'{part.location}' is missing or holds no images: Market's layout is "
                    f"{', '.join(MARKERS)}, each with {IMAGES} files; or give one "
                    "sub-folder for each identity"
                )
        return parts


def _find_flat(path: Path) -> FileTree | None:
    """The tree of nothing but a folder of images for each identity, at `path` or in its one folder.

    A folder is looked into only as far as needed, as `path` may be the top of a disk.
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
        if not below.images():  # a single image
            return None
        tree = below
    inside = all("/" in name for name in tree.images())
    marked = any(part in ALL_MARKERS for name in tree.names for part in name.split("/")[:2])
    return tree if len(tops) > 1 and inside and not marked else None


def _has_image(folder: Path) -> bool:
    try:
        names = (name for _, _, files in os.walk(folder) for name in files)
        return any(name.lower().endswith(IMAGE_SUFFIXES) for name in itertools.islice(names, 1000))
    except (OSError, RecursionError):  # of folders in folders in folders
        return False


def _read(tree: FileTree) -> list[_Image]:
    """The images of a folder with their labels, sorted by filename.

    Raises: UserError if a name shows no identity.
    """
    found = []
    for name in tree.images():
        base = posixpath.basename(name)
        match, camera = PID.match(base), CAMERA.search(base)
        inside = name.split("/")[0] if "/" in name else None
        if inside is None and match is None:
            raise UserError(
                f"'{tree.location}/{name}' does not begin with an identity's number, as "
                "0001_c1s1_001051_00.jpg does, and lies in no sub-folder named by one: rename or "
                "remove it"
            )
        identity = inside if inside is not None else match[1]  # type: ignore[index]
        identity = str(int(identity)) if _is_number(identity) else identity  # 0001 is 1
        found.append(_Image(name, identity, int(camera[1]) if camera else None))
    return found


def _check_cameras(parts: Mapping[str, FileTree], images: Mapping[str, list[_Image]]) -> None:
    """Refuses a data set that names cameras for some images only."""
    without = [
        f"{parts[split].location}/{image.filename}"
        for split, found in images.items()
        for image in found
        if image.camera is None
    ]
    number = sum(map(len, images.values()))
    if 0 < len(without) < number:
        raise UserError(
            f"'{without[0]}' names no camera (c and a number, in front or after a _), nor do "
            f"{len(without) - 1} others of {number} images: name one for all of them or for none"
        )


def _names(images: list[_Image]) -> list[str]:
    """The identities' names in order, the place being the pid; none if all are numbers."""
    names = sorted({image.identity for image in images})
    return [] if all(_is_number(name) for name in names) else names


def _is_number(name: str) -> bool:
    return name == str(JUNK) or (name.isascii() and name.isdecimal() and len(name) < 10)


def _choose_tested(images: list[_Image]) -> dict[str, list[_Image]]:
    """Keeps some identities for the test: those whose names hash lowest.

    So hardly any moves between training and test when others are added.
    """
    people = {image.identity for image in images}
    ranked = sorted(people, key=lambda name: (zlib.crc32(name.encode(errors="replace")), name))
    tested = set(ranked[: math.ceil(TEST_SHARE * len(ranked))])
    return {
        "train": [image for image in images if image.identity not in tested],
        "test": [image for image in images if image.identity in tested],
    }


def _divide(test: SplitSource, tree: FileTree) -> dict[str, SplitSource]:
    """Makes query and gallery of a test split.

    Raises: UserError if no identity can be asked for.
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


def _doubts(sources: Mapping[str, SplitSource]) -> list[str]:
    """What is allowed, but hardly meant."""
    train, query, gallery = (
        {p.pid for p in sources[split].photos} for split in ("train", "query", "gallery")
    )
    lines = []
    if learnt := train & (query | gallery):
        lines.append(
            f"{len(learnt)} identities are in train and also in query or gallery: results would "
            "flatter"
        )
    if lost := query - gallery:
        lines.append(f"{len(lost)} identities of query are not in gallery: they do not count")
    return lines
