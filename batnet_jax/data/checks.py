"""What is looked at while a data set is prepared: each image, copies among them, their number."""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

from batnet_jax.errors import UserError

LABELLED = ("train", "query", "gallery")
"""The splits that are searched for copies; the others repeat images of these on purpose."""


def check_image(encoded: bytes, name: str) -> None:
    """Decodes an image as training will.

    Raises: UserError if it is empty, cut off, or no image.
    """
    data = np.frombuffer(encoded, np.uint8)
    if len(data) == 0:
        raise UserError(f"'{name}' is empty: restore or remove it, then run again")
    if _is_cut_off(encoded) or cv2.imdecode(data, cv2.IMREAD_COLOR) is None:
        raise UserError(
            f"'{name}' cannot be decoded (cut off, or no image): restore or remove it, then run "
            "again"
        )


def _is_cut_off(encoded: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end; some versions of OpenCV fill the rest with grey."""
    if encoded.startswith(b"\xff\xd8"):  # after the start of the last scan, the end of the image
        return encoded.rfind(b"\xff\xd9") < max(encoded.rfind(b"\xff\xda"), 0)
    if encoded.startswith(b"\x89PNG"):
        return b"IEND" not in encoded[-65536:]
    return False


class Count(NamedTuple):
    """The size of a split."""

    images: int
    identities: int
    """Distractors are nobody."""
    cameras: int = 0
    """0 = not known."""
    distractors: int = 0
    """Images of nobody who is searched for; they stay in the gallery."""
    junk: int = 0
    """Images left out; they are not among `images`."""


def count(pids: np.ndarray, cameras: np.ndarray, *, distractor: int | None, junk: int) -> Count:
    """Counts a split.

    Args:
      pids: [n] int.
      cameras: [n] int; negative = not known.
      distractor: the pid of distractors, if there is one.
      junk: how many images were left out.
    """
    nobody = np.zeros(len(pids), bool) if distractor is None else pids == distractor
    return Count(
        images=len(pids),
        identities=len(np.unique(pids[~nobody])),
        cameras=len(np.unique(cameras[cameras >= 0])),
        distractors=int(nobody.sum()),
        junk=junk,
    )


def format_counts(counts: Mapping[str, Count]) -> str:
    """A table of all splits, for people."""
    lines = [f"  {'split':12}" + "".join(f"{name:>12}" for name in Count._fields)]
    for split, numbers in counts.items():
        lines.append(f"  {split:12}" + "".join(f"{number:12,}" for number in numbers))
    return "\n".join(lines)


def differences(counts: Mapping[str, Count], published: Mapping[str, Count]) -> list[str]:
    """A line for each split whose size is not the published one, with both numbers."""
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


class Copies:
    """Finds files of the same content; holds 8 bytes an image."""

    def __init__(self) -> None:
        self._digests: dict[str, list[int]] = {}

    def add(self, split: str, encoded: bytes) -> None:
        """Notes the next image of a split."""
        digest = hashlib.blake2b(encoded, digest_size=8).digest()
        self._digests.setdefault(split, []).append(int.from_bytes(digest, "little"))

    def complaints(
        self, filenames: Mapping[str, list[str]], pids: Mapping[str, np.ndarray]
    ) -> list[str]:
        """A line for each kind of copy that harms, with an example.

        Args:
          filenames: of each split, in the order of `add`.
          pids: [n] int of each split.
        """
        splits = [split for split in LABELLED if split in self._digests]
        digests = np.concatenate([np.array(self._digests[split], np.uint64) for split in splits])
        people = np.concatenate([pids[split] for split in splits])
        place = np.repeat(np.arange(len(splits)), [len(self._digests[split]) for split in splits])
        names = [f"{split}/{name}" for split in splits for name in filenames[split]]
        order = np.argsort(digests, kind="stable")
        first, second = order[:-1], order[1:]
        same = digests[first] == digests[second]
        test = [i for i, split in enumerate(splits) if split != "train"]
        learnt, own = np.isin(place[first], test) != np.isin(place[second], test), place[first]
        kinds = {
            "are in train and also in query or gallery: results would flatter": same & learnt,
            "bear another identity in a second file": same
            & ~learnt
            & (people[first] != people[second]),
            "are in one split twice": same
            & (own == place[second])
            & (people[first] == people[second]),
        }
        return [
            f"{found.sum():,} images {what}, '{names[first[i]]}' and '{names[second[i]]}' for one"
            for what, found in kinds.items()
            if found.any()
            for i in [int(found.argmax())]
        ]
