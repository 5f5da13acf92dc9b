"""A data set of a user's own images, in any usual layout of folders.

* Folders of splits with any of their usual names, see `split_folders.py`: train, query and gallery,
  as in Market-1501's `bounding_box_train/`, `query/`, `bounding_box_test/`; or train and test,
  where `splits.query_and_gallery` divides the test images.
* No splits: a quarter of the identities is used for the test.

Inside, folders are people or cameras, see `layout.py`. An image's identity is its folder or,
without one, the number at the start of its filename. Its folder or its filename tells its camera,
see `file_labels.py`. Either all test images have a camera or none has.
"""

import hashlib
import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from batnet_jax.data.builder import (
    NO_READING,
    UNKNOWN_CAMERA,
    Photo,
    Reading,
    ReIDBuilder,
    SplitSource,
)
from batnet_jax.data.files.tree import FileTree
from batnet_jax.data.sources.file_labels import (
    Labels,
    camera_numbers,
    compile_pattern,
    earlier_labels,
    is_number,
)
from batnet_jax.data.sources.find_parts import find_parts
from batnet_jax.data.sources.layout import SPLIT, Levels, find_levels, parse_layout, read_labels
from batnet_jax.data.sources.market import FOLDERS, JUNK, make_source
from batnet_jax.data.sources.spelling import spelling_warnings
from batnet_jax.data.sources.split_folders import Parts
from batnet_jax.data.splits import query_and_gallery
from batnet_jax.errors import UserError

MAX_SHOWN = 5
"""Names of folders in a message."""
TEST_SHARE = 0.25
"""Fraction of the identities used for the test, in a data set without splits."""


class LabelledImage(NamedTuple):
    """An image and its labels."""

    filename: str
    """In its tree."""
    labels: Labels


class Found(NamedTuple):
    """The images of a user's data set."""

    parts: dict[str, FileTree]
    """The trees of train, query and gallery; of train and test; or of all."""
    images: dict[str, list[LabelledImage]]
    """The images of each tree, sorted by filename."""
    lines: list[str]
    """How they were read, for the user."""


class Folder(ReIDBuilder):
    """A data set of the user's own images.

    The name of the builder config is a fingerprint of the files, so that added, removed or replaced
    images lead to a new copy. Old copies stay until the user deletes them.
    """

    TITLE = "a data set of your own"
    WANTED = "/, ".join(FOLDERS.values()) + "/, or a sub-folder for each identity,"
    NO_CAMERA = "names no camera (c and a number, at the start or after a _)"
    IF_CAMERAS = "if the names tell the camera, set data.pattern"
    SET_CAMERAS = "set data.pattern"
    OTHER_CAMERAS = (
        "add other cameras, or leave cameras unread by a data.pattern with the group pid alone, "
        "such as (?P<pid>[^/]+)/"
    )
    """Parts of messages about cameras."""

    @classmethod
    def choose_config(
        cls, variant: str, manual_dir: str, reading: Reading = NO_READING
    ) -> tfds.core.BuilderConfig:
        """Return a config named by a fingerprint of the files in `manual_dir` and their labels.

        Raises: UserError if there are no images, or an image has no identity.
        """
        super().choose_config(variant, manual_dir)
        parts = find_parts(cls, manual_dir, reading)
        prints = [tree.fingerprint() for tree in parts.trees.values()]
        found, _ = _read(parts, reading)
        images = [image for part in found.values() for image in part]
        # A copy that an earlier version prepared with other labels is not this data set.
        if any(earlier_labels(name) != labels[:2] for name, labels in images):
            prints.append(str([image.labels[:2] for image in images]))
        return tfds.core.BuilderConfig(
            name=hashlib.sha256(" ".join(prints).encode(errors="replace")).hexdigest()[:16]
        )

    def sources(self) -> dict[str, SplitSource]:
        """See the base class."""
        parts, found, lines = self.read_images()
        images = {
            split: [i for i in f if i.labels.identity != str(JUNK)] for split, f in found.items()
        }
        junk = {split: len(found[split]) - len(images[split]) for split in found}
        if "all" in parts:
            images = _choose_tested(images["all"])
            parts = dict.fromkeys(images, parts["all"])
        if left := sum(junk.values()):
            lines.append(f"not read: {left:,} images of the identity {JUNK}, which marks junk")
        self._say(lines)
        self._warn(spelling_warnings([i.labels for part in images.values() for i in part]))
        images = self._settle_cameras(images, parts)
        self._names = _names([image for part in images.values() for image in part])
        numbers = camera_numbers(_cameras(images))
        if any(str(number) != camera for camera, number in numbers.items()):
            named = list(numbers.items())[:MAX_SHOWN]
            more = ", ..." if len(numbers) > MAX_SHOWN else ""
            self._say(["cameras: " + ", ".join(f"{n} = {name}" for name, n in named) + more])
        sources = {}
        for split, photos in _photos(images, self._names, numbers).items():
            if not photos:
                raise UserError(
                    f"'{parts[split].location}' is missing or holds no images but junk: add some"
                )
            sources[split] = make_source(photos, parts[split], junk=junk.get(split, 0))
        if "test" in sources:
            test = _divide(sources["test"], parts["test"], self.OTHER_CAMERAS)
            sources = {"train": sources["train"], **test}
        self._warn(_split_warnings(sources))
        return sources

    def identity_names(self) -> list[str]:
        """See the base class; empty where identities are numbers."""
        return self._names

    def read_images(self) -> Found:
        """Find the images, and read their labels.

        Raises: UserError if an image has no identity, or images or splits are missing.
        """
        parts = find_parts(type(self), self.manual_path, self.reading)
        found, levels = _read(parts, self.reading)
        return Found(parts.trees, found, _describe_layout(levels, parts.left_out))

    def _settle_cameras(
        self, images: dict[str, list[LabelledImage]], parts: Mapping[str, FileTree]
    ) -> dict[str, list[LabelledImage]]:
        """Return the images. Remove the training images' cameras unless all of them have one.

        Warns of cameras that are removed, and of a test without cameras.

        Raises: UserError if only some of the test images have a camera.
        """
        tested = {split: found for split, found in images.items() if split != "train"}
        _check_cameras(parts, tested, self.NO_CAMERA, self.SET_CAMERAS)
        if not any(image.labels.camera for found in tested.values() for image in found):
            example = next((i.filename for found in tested.values() for i in found), "")
            self._warn(
                [
                    f"no camera is found, as in '{example}': a query is compared with all other "
                    "images of its person, and finds those of the same camera and moment first, so "
                    f"figures near 1 say little about other cameras; {self.IF_CAMERAS}"
                ]
            )
        trained = images["train"]
        without = sum(image.labels.camera is None for image in trained)
        if 0 < without < len(trained):
            self._warn(
                [f"{without} of {len(trained)} training images name no camera: none is kept there"]
            )
            trained = [
                LabelledImage(name, labels._replace(camera=None)) for name, labels in trained
            ]
        return {**images, "train": trained}


def _read(
    parts: Parts, reading: Reading
) -> tuple[dict[str, list[LabelledImage]], dict[str, Levels]]:
    """Return the images of each tree with their labels, sorted by filename, and its levels.

    Raises: UserError if an image has no identity, or folders can be read in several ways.
    """
    pattern = compile_pattern(reading.pattern)
    given = parse_layout(reading.layout)
    found, levels = {}, {}
    for split, tree in parts.trees.items():
        names = tree.images()
        if given is not None:
            own = tuple(word for word in given if word != SPLIT)
        elif pattern and "pid" in pattern.groupindex:
            own = ()
        else:
            own = find_levels(names, tree.location, "" if split == "all" else f"{SPLIT}/")
        levels[split] = own
        found[split] = []
        for name in names:
            try:
                labels = read_labels(name, own, pattern, explicit=given is not None)
            except UserError as error:
                raise UserError(f"'{tree.location}/{name}' {error}") from None
            found[split].append(LabelledImage(name, labels))
    return found, levels


def _describe_layout(levels: Mapping[str, Levels], left_out: Sequence[str]) -> list[str]:
    """Return lines with the layout, and the folders that are not read."""
    splits = list(levels) != ["all"]
    read = {("split", *found) if splits else found for found in levels.values()}
    layouts = " and ".join(sorted("/".join(found) or "*" for found in read))
    lines = [f"folders read as data.layout={layouts}"]
    if left_out:
        names = ", ".join(f"{name}/" for name in left_out[:MAX_SHOWN])
        more = f" and {len(left_out) - MAX_SHOWN} more" if len(left_out) > MAX_SHOWN else ""
        lines.append(f"not read, beside the splits: {names}{more}")
    return lines


def _check_cameras(
    parts: Mapping[str, FileTree],
    images: Mapping[str, list[LabelledImage]],
    no_camera: str,
    set_cameras: str,
) -> None:
    """Refuse a test if only some of its images have a camera; see `Folder.NO_CAMERA`."""
    without = [
        f"{parts[split].location}/{image.filename}"
        for split, found in images.items()
        for image in found
        if image.labels.camera is None
    ]
    number = sum(map(len, images.values()))
    if 0 < len(without) < number:
        raise UserError(
            f"'{without[0]}' {no_camera}, nor do {len(without) - 1} others of {number} test "
            f"images: name one for all of them or for none, or {set_cameras}"
        )


def _cameras(images: Mapping[str, list[LabelledImage]]) -> set[str]:
    labels = (image.labels for found in images.values() for image in found)
    return {one.camera for one in labels if one.camera is not None}


def _photos(
    images: Mapping[str, list[LabelledImage]], names: list[str], cameras: Mapping[str, int]
) -> dict[str, list[Photo]]:
    """Return the photos of each split, with identities and cameras as numbers."""
    pids = {name: number for number, name in enumerate(names)}
    return {
        split: [
            Photo(
                name,
                pids[one.identity] if names else int(one.identity),
                UNKNOWN_CAMERA if one.camera is None else cameras[one.camera],
            )
            for name, one in found
        ]
        for split, found in images.items()
    }


def _names(images: list[LabelledImage]) -> list[str]:
    """Return the sorted names of identities, whose index is the pid; empty if all are numbers."""
    names = sorted({image.labels.identity for image in images})
    return [] if all(is_number(name) for name in names) else names


def _choose_tested(images: list[LabelledImage]) -> dict[str, list[LabelledImage]]:
    """Choose the test identities by the lowest hashes of their names.

    If identities are added, few of the others move between training and test.
    """
    people = {image.labels.identity for image in images}
    ranked = sorted(people, key=lambda name: (zlib.crc32(name.encode(errors="replace")), name))
    tested = set(ranked[: math.ceil(TEST_SHARE * len(ranked))])
    return {
        "train": [image for image in images if image.labels.identity not in tested],
        "test": [image for image in images if image.labels.identity in tested],
    }


def _divide(test: SplitSource, tree: FileTree, other_cameras: str) -> dict[str, SplitSource]:
    """Divide a test split into query and gallery.

    Args:
      test: the split.
      tree: of its images.
      other_cameras: the way out if all images are of one camera, see `Folder.OTHER_CAMERAS`.

    Raises: UserError if no identity can be a query.
    """
    photos = test.photos
    rows = query_and_gallery(
        np.array([photo.pid for photo in photos]), np.array([photo.camera for photo in photos])
    )
    if not len(rows[0]):
        seen = {photo.camera for photo in photos}
        needs = "" if UNKNOWN_CAMERA in seen else " from two cameras"
        only = ": add some"
        if needs and len(seen) == 1:
            only = f": all are of camera {seen.pop()}: {other_cameras}"
        raise UserError(f"'{tree.location}' has no test identity with two images{needs}{only}")
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
    images = Counter(photo.pid for photo in sources["train"].photos)
    alone = sum(number == 1 for number in images.values())
    if 2 * alone > len(images):
        lines.append(
            f"{alone} of {len(images)} identities in train have a single image: a batch repeats it,"
            " and little is learnt about how a person's images differ"
        )
    if lost := query - gallery:
        lines.append(f"{len(lost)} identities of query are not in gallery: they do not count")
    return lines
