"""Checks of a data set while it is prepared: images, counts, copies."""

import hashlib
import sys
from array import array
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from batnet_jax.data.files.image_headers import is_cut_off
from batnet_jax.data.files.pixels import read_picture
from batnet_jax.errors import UserError

COMPARED_SPLITS = ("train", "query", "gallery")
"""The splits searched for copies; the other splits repeat their images on purpose."""
FAR_OFF = 1.4
"""The stretch of images above which another image size is recommended."""
LONGEST = 8
"""Height / width, or width / height, of the longest image size that is recommended."""
SIDE = 16
"""The network takes heights and widths that are multiples of this."""


class Checked(NamedTuple):
    """The result of checking an image."""

    transparent: bool
    """Whether a pixel is transparent."""
    shape: tuple[int, int]
    """Height and width in pixels, upright."""


def check_image(encoded: bytes, name: str) -> Checked:
    """Check that an image can be decoded.

    Raises: UserError if the file is empty, cut off, too large or not an image.
    """
    if not encoded:
        raise UserError(f"'{name}' is empty: restore or remove it, then run again")
    try:
        if is_cut_off(encoded):
            raise UserError("cut off, or no image")
        picture = read_picture(encoded)
    except UserError as error:
        raise UserError(
            f"'{name}' cannot be decoded ({error}): restore or remove it, then run again"
        ) from error
    height, width, _ = picture.pixels.shape
    return Checked(picture.transparent, (height, width))


def median_aspect(shapes: np.ndarray) -> float:
    """Return the median of height / width; [n, 2] int in pixels."""
    return float(np.median(shapes[:, 0] / shapes[:, 1]))


def fitting_size(aspect: float, size: tuple[int, int], step: int = SIDE) -> tuple[int, int] | None:
    """Return an image size of the images' shape, with about as many pixels as `size`.

    Args:
      aspect: the images' height / width; shapes beyond `LONGEST` count as `LONGEST`.
      size: (height, width) in pixels, as configured.
      step: the network takes heights that are multiples of `step`, itself a multiple of 16.

    Returns: (height, width), the width a multiple of 16; None if the configured shape is near
      enough, or nearer than any shape that the network takes.
    """
    ratio = aspect * size[1] / size[0]
    if max(ratio, 1 / ratio) < FAR_OFF:
        return None
    wanted = min(max(aspect, 1 / LONGEST), LONGEST)
    height = max(step, step * round((size[0] * size[1] * wanted) ** 0.5 / step))
    width = max(SIDE, SIDE * round(height / wanted / SIDE))
    left = aspect * width / height
    return (height, width) if max(left, 1 / left) < max(ratio, 1 / ratio) else None


class Count(NamedTuple):
    """The size of a split."""

    images: int
    identities: int
    """Without distractors."""
    cameras: int = 0
    """0 = unknown."""
    distractors: int = 0
    """Gallery images of people who appear in no query."""
    junk: int = 0
    """Images left out, not counted in `images`."""


def count(pids: np.ndarray, cameras: np.ndarray, *, distractor: int | None, junk: int) -> Count:
    """Count the images, identities and cameras of a split.

    Args:
      pids: [n] int.
      cameras: [n] int; negative = unknown.
      distractor: the pid of distractors; None = no distractors.
      junk: number of images left out.
    """
    is_distractor = np.zeros(len(pids), bool) if distractor is None else pids == distractor
    return Count(
        images=len(pids),
        identities=len(np.unique(pids[~is_distractor])),
        cameras=len(np.unique(cameras[cameras >= 0])),
        distractors=int(is_distractor.sum()),
        junk=junk,
    )


def format_counts(counts: Mapping[str, Count]) -> str:
    """Return a text table of all splits' sizes."""
    lines = [f"  {'split':12}" + "".join(f"{name:>12}" for name in Count._fields)]
    for split, numbers in counts.items():
        lines.append(f"  {split:12}" + "".join(f"{number:12,}" for number in numbers))
    return "\n".join(lines)


def count_warnings(counts: Mapping[str, Count], published: Mapping[str, Count]) -> list[str]:
    """Return a warning, with both numbers, for each split that differs from the published one."""
    lines = []
    for split, want in published.items():
        if split not in counts:
            continue
        wrong = [
            f"{getattr(counts[split], name):,} {name} (published: {getattr(want, name):,})"
            for name in Count._fields
            if getattr(counts[split], name) != getattr(want, name)
        ]
        if wrong:
            lines.append(f"{split} has {', '.join(wrong)}: is the copy whole?")
    return lines


def digest_of(encoded: bytes) -> int:
    """Return a digest of 64 bits of the content of a file."""
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), sys.byteorder)


class Copies:
    """Finds files with the same content, with 8 bytes of memory for each image."""

    def __init__(self) -> None:
        self._digests: dict[str, array] = {}

    def add(self, split: str, encoded: bytes) -> None:
        """Add the next image of a split."""
        self._digests.setdefault(split, array("Q")).append(digest_of(encoded))

    def digests(self, split: str) -> np.ndarray:
        """Return the digests of a split's images, [n] uint64, in the order of `add`."""
        return np.array(self._digests.get(split, ()), np.uint64)

    def warnings(
        self,
        filenames: Mapping[str, list[str]],
        pids: Mapping[str, np.ndarray],
        cameras: Mapping[str, np.ndarray],
    ) -> list[str]:
        """Return a warning, with an example, for each kind of harmful copy.

        Args:
          filenames: by split, in the order of `add`.
          pids: by split, [n] int.
          cameras: by split, [n] int; negative = unknown. A query's copy from the same camera is
            harmless, because evaluation removes it.
        """
        splits = [split for split in COMPARED_SPLITS if split in self._digests]
        digests = np.concatenate([np.array(self._digests[split], np.uint64) for split in splits])
        people = np.concatenate([pids[split] for split in splits])
        views = np.concatenate([cameras[split] for split in splits])
        lengths = [len(self._digests[split]) for split in splits]
        split_of = np.repeat(np.arange(len(splits)), lengths)
        place = np.concatenate([np.arange(length) for length in lengths])

        def name(i: int) -> str:
            split = splits[split_of[i]]
            return f"'{split}/{filenames[split][place[i]]}'"

        # Sorting places copies side by side, in the order of the splits.
        order = np.argsort(digests, kind="stable")
        first, second = order[:-1], order[1:]
        same = digests[first] == digests[second]
        one_split = split_of[first] == split_of[second]
        learnt = ~one_split & (split_of[first] == splits.index("train"))
        one_person = people[first] == people[second]
        removed = (views[first] == views[second]) & (views[first] >= 0)
        kinds = {
            "in train are also in query or gallery: results would be too good": learnt,
            "have another identity in a second file": ~learnt & ~one_person,
            "in query are also in gallery: each would find itself": ~learnt
            & ~one_split
            & one_person
            & ~removed,
            "occur twice in one split": one_split & one_person,
        }
        return [
            f"{found.sum():,} images {what}, for example {name(first[i])} and {name(second[i])}"
            for what, alike in kinds.items()
            if (found := same & alike).any()
            for i in [int(found.argmax())]
        ]
