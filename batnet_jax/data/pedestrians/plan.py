"""Plans the images of a data set: identities, cameras and filenames, without pixels."""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from batnet_jax.data.pedestrians.dice import Dice
from batnet_jax.data.pedestrians.style import STYLES

Split = Literal["train", "query", "gallery"]
SPLITS: tuple[Split, ...] = ("train", "query", "gallery")
_FILENAME = re.compile(r"([0-9]+)_c([0-9]+)s([0-9]+)_([0-9]+)_00\.jpg")


class Size(NamedTuple):
    """The size of a data set; image counts are totals of a split, divided evenly."""

    train_identities: int
    train_images: int
    test_identities: int
    query_images: int
    gallery_images: int  # gallery images of test identities
    distractors: int  # gallery images of people in no query (pid 0)
    cameras: int
    height: int
    width: int
    unseen_cameras: int = 0  # of `cameras`: the last ones, which take no training image
    style: str = "easy"  # a key of `STYLES`


SIZES: dict[str, Size] = {
    "demo": Size(300, 2_400, 60, 120, 360, 20, 6, 128, 64),
    # For a quick try and for tests.
    "tiny": Size(12, 96, 8, 16, 36, 4, 6, 128, 64),
    # The counts of Market-1501.
    "medium": Size(751, 12_936, 750, 3_368, 13_115, 2_798, 6, 128, 64),
    # The counts of MSMT17: 126,441 images.
    "msmt17": Size(1_041, 32_621, 3_060, 11_659, 82_161, 0, 15, 128, 64),
    # A benchmark: see docs/pedestrians.md.
    "hard": Size(600, 7_200, 300, 900, 3_000, 1_500, 12, 128, 64, 4, "hard"),
    "hard_msmt17": Size(1_041, 32_621, 3_060, 11_659, 72_161, 10_000, 15, 128, 64, 5, "hard"),
}


class Shot(NamedTuple):
    """One image of a plan; `index` counts the images of an identity, pid 0 is a distractor."""

    filename: str
    pid: int
    camera: int  # from 1
    index: int
    style: str = "easy"  # a key of `STYLES`


def make_shot(pid: int, camera: int, index: int, style: str = "easy") -> Shot:
    """Return a shot with a filename like Market-1501's: identity, camera, sequence, frame, box.

    The sequence tells the style.
    """
    sequence = [*STYLES].index(style) + 1
    name = f"{pid:04d}_c{camera}s{sequence}_{index:06d}_00.jpg"
    return Shot(name, pid, camera, index, style)


def read_shot(filename: str) -> Shot:
    """Return the shot whose filename `make_shot` made.

    Raises: ValueError for any other filename.
    """
    found = _FILENAME.fullmatch(filename)
    if found:
        pid, camera, sequence, index = map(int, found.groups())
        styles = [*STYLES][sequence - 1 : sequence] if sequence else []
        shots = [make_shot(pid, camera, index, style) for style in styles]
        if shots and shots[0].filename == filename:
            return shots[0]
    raise ValueError(f"{filename!r} is not the filename of a drawn image")


def plan(size: Size, split: Split, seed: int) -> Iterator[Shot]:
    """Yield the images of a split, in order of identity.

    Training identities are 1 to `train_identities`; test identities follow. The images of an
    identity cycle through the cameras in a random order of its own, queries first. Its queries
    therefore come from different cameras, and with two gallery images or more, each query has a
    match in another camera. Training has no image of the unseen cameras.

    Args:
      size: one of `SIZES`, or another size.
      split: "train", "query" or "gallery".
      seed: the seed of the data set, as for drawing.

    Raises:
      ValueError: the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    if split == "train":
        for rank in range(size.train_identities):
            count = _share(size.train_images, size.train_identities, rank)
            yield from _shots(size, seed, rank + 1, 0, count, size.unseen_cameras)
        return
    for rank in range(size.test_identities):
        pid = size.train_identities + rank + 1
        queries = _share(size.query_images, size.test_identities, rank)
        if split == "query":
            yield from _shots(size, seed, pid, 0, queries)
        else:
            count = _share(size.gallery_images, size.test_identities, rank)
            yield from _shots(size, seed, pid, queries, queries + count)
    if split == "gallery":
        for index in range(size.distractors):
            yield make_shot(0, index % size.cameras + 1, index, size.style)


def _share(total: int, people: int, rank: int) -> int:
    return total // people + (rank < total % people)


def _shots(
    size: Size, seed: int, pid: int, start: int, stop: int, unseen: int = 0
) -> Iterator[Shot]:
    order = Dice(seed, "cameras", pid).shuffled(range(1, size.cameras - unseen + 1))
    for index in range(start, stop):
        yield make_shot(pid, order[index % len(order)], index, size.style)
