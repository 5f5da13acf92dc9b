"""A data set as other modules see it: splits of labelled images, whose files are read on access."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Split:
    """n images of a prepared split, sorted by filename unless `take` reorders them."""

    pids: np.ndarray
    """[n] int64, as in the data set: not contiguous, and splits may share identities."""

    cameras: np.ndarray
    """[n] int64; all -1 if cameras are unknown."""

    filenames: list[str]
    """Relative to the split's folder in the original data set."""

    rows: np.ndarray
    """[n] int64, the indices of the images in `files`."""

    files: Sequence[bytes]
    """All image files of the prepared split, read on access."""

    file_state: str
    """The path, size and time of the prepared file; differs on every machine."""

    content_digest: str = ""
    """A digest of the whole split's labels and images; the same on every machine."""

    shapes: np.ndarray | None = None
    """[n, 2] int32, height and width in pixels; None if an older version prepared the split."""

    images_digest: str = ""
    """A digest of the whole split's names and images, without labels; the same on every machine."""

    def __len__(self) -> int:
        return len(self.filenames)

    def encoded(self, i: int) -> bytes:
        """Return the bytes of image i's file; safe to call from several threads.

        Raises: OSError if the prepared file no longer holds the image.
        """
        return self.files[self.rows[i]]

    def take(self, rows: np.ndarray) -> "Split":
        """Return the images at `rows`, [m] int or [n] bool."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return Split(
            self.pids[rows],
            self.cameras[rows],
            [self.filenames[row] for row in rows],
            self.rows[rows],
            self.files,
            self.file_state,
            self.content_digest,
            None if self.shapes is None else self.shapes[rows],
            self.images_digest,
        )

    def fingerprint(self) -> str:
        """Return an identifier of these images on this machine, for caches."""
        return hashlib.sha256(self.file_state.encode() + self.rows.tobytes()).hexdigest()[:16]

    def content_fingerprint(self) -> str:
        """Return an identifier of these images and labels, the same on every machine."""
        return hashlib.sha256(self.content_digest.encode() + self.rows.tobytes()).hexdigest()[:16]

    def images_fingerprint(self) -> str:
        """Return an identifier of these images that ignores the numbers of their identities."""
        return hashlib.sha256(self.images_digest.encode() + self.rows.tobytes()).hexdigest()[:16]

    def label_fingerprint(self) -> str:
        """Return an identifier of the names, pids and cameras of these images, in their order."""
        digest = hashlib.sha256(json.dumps(self.filenames).encode())
        for labels in (self.pids, self.cameras):
            digest.update(labels.astype("<i8").tobytes())
        return digest.hexdigest()[:16]


class _Chain(Sequence[bytes]):
    """Several sequences, one after the other."""

    def __init__(self, parts: Sequence[Sequence[bytes]]):
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: Any) -> Any:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._parts[part][row - self._starts[part]]


def concatenate(splits: Sequence[Split]) -> Split:
    """Return one split with the images of several splits, in order."""
    if len(splits) == 1:
        return splits[0]
    files = _Chain([split.files for split in splits])
    shapes = [split.shapes for split in splits]
    starts = np.cumsum([0, *(len(split.files) for split in splits)])
    return Split(
        np.concatenate([split.pids for split in splits]),
        np.concatenate([split.cameras for split in splits]),
        [name for split in splits for name in split.filenames],
        np.concatenate([split.rows + start for split, start in zip(splits, starts, strict=False)]),
        files,
        " ".join(split.file_state for split in splits),
        " ".join(split.content_digest for split in splits),
        None if any(s is None for s in shapes) else np.concatenate(shapes),  # type: ignore
        " ".join(split.images_digest for split in splits),
    )


@dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared data set."""

    name: str
    """See `data.title_of`."""

    path: Path
    """The folder of the prepared files."""

    train: Split
    query: Split
    gallery: Split
    val: Split | None = None
    multi_query: Split | None = None
    distractors: Split | None = None

    identity_names: Sequence[str] = ()
    """The user's names of identities, indexed by pid; empty if there are none."""
