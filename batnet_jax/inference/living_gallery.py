"""Updates a gallery's file: only new and changed images are embedded.

A plan says where each row of the new file comes from. The new file is written block by block and
replaces the old file in one step, so a reader sees either the old file or the new one.
"""

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from batnet_jax.data.files.tree import is_image_name
from batnet_jax.data.loading.described_images import DescribedImages, box_at
from batnet_jax.data.loading.name_list import read_names
from batnet_jax.errors import UserError, printable
from batnet_jax.inference.columns import join_columns
from batnet_jax.inference.feature_file import FeatureFile
from batnet_jax.retrieval.mapped_rows import read_rows
from batnet_jax.retrieval.row_file import RowFile
from batnet_jax.runtime.paths import is_file

ROWS_AT_ONCE = 4096
"""Rows that are copied at a time."""
SHOWN = 3
"""Pairs of equal files in a message."""

_Key = tuple[str, tuple[float, ...] | None, int]


class Plan(NamedTuple):
    """The rows of a gallery's new file, and how they differ from the old one's."""

    old: np.ndarray
    """[m] int64, the row of the old file; -1 for an image that the old file does not have."""
    listed: np.ndarray
    """[m] int64, the image of the list; -1 for an image that the list does not have."""
    is_fresh: np.ndarray
    """[m] bool: the image is to be embedded; else the feature of the old row is kept."""
    gone: int
    """Rows of the old file that the new one lacks."""

    def counts(self) -> str:
        """Return the numbers of images added, changed, gone and unchanged, in words."""
        added = int((self.old < 0).sum())
        changed = int((self.is_fresh & (self.old >= 0)).sum())
        same = len(self.old) - added - changed
        return f"{added} added, {changed} changed, {self.gone} gone, {same} unchanged"

    def is_nothing(self) -> bool:
        """Return whether all images stay as they are."""
        return not self.gone and not self.is_fresh.any()

    def without(self, unreadable: Sequence[int]) -> "Plan":
        """Return the plan without some images of the list."""
        keep = ~(self.is_fresh & np.isin(self.listed, unreadable))
        lost = int((~keep & (self.old >= 0)).sum())
        return Plan(self.old[keep], self.listed[keep], self.is_fresh[keep], self.gone + lost)


def plan_all(count: int) -> Plan:
    """Return the plan of a new file of all images of a list."""
    rows = np.arange(count)
    return Plan(np.full(count, -1), rows, np.ones(count, bool), 0)


def plan_append(gallery: FeatureFile, images: DescribedImages) -> Plan:
    """Return the plan that adds the images of a list that a gallery does not have.

    Args:
      gallery: with paths.
      images: the list.
    """
    known = set(_keys(gallery.paths or [], gallery.columns))
    new = [i for i, key in enumerate(_keys(images.filenames, images.columns)) if key not in known]
    kept = len(gallery.features)
    return Plan(
        np.concatenate([np.arange(kept), np.full(len(new), -1)]),
        np.concatenate([np.full(kept, -1), np.array(new, np.int64)]),
        np.arange(kept + len(new)) >= kept,
        0,
    )


def plan_update(gallery: FeatureFile, images: DescribedImages) -> Plan:
    """Return the plan that makes a gallery the gallery of a list.

    An image whose file has another size has changed. One whose size and time are the same has not.
    Where the times differ, or are unknown, the content decides, by its digest. The digests of
    images that stay are written into `images`.

    Args:
      gallery: with paths.
      images: the list.

    Returns: the images of the gallery that are still listed, in their order, then the new images.
    """
    places = {key: i for i, key in enumerate(_keys(images.filenames, images.columns))}
    old, listed, fresh, gone = [], [], [], 0
    for row, key in enumerate(_keys(gallery.paths or [], gallery.columns)):
        i = places.pop(key, -1)
        if i < 0:
            gone += 1
            continue
        old.append(row)
        listed.append(i)
        fresh.append(_has_changed(gallery.columns, row, images, i))
    new = list(places.values())
    old += [-1] * len(new)
    return Plan(
        np.array(old, np.int64),
        np.array(listed + new, np.int64),
        np.array(fresh + [True] * len(new), bool),
        gone,
    )


def plan_remove(gallery: FeatureFile, removed: str) -> Plan:
    """Return the plan that removes images from a gallery.

    Args:
      gallery: with paths.
      removed: a pattern of paths, as `photos/old/*`; a path, or a folder whose images are removed;
        or a text file with a path a line.

    Raises: UserError if no image is removed, or the text file cannot be read.
    """
    paths = gallery.paths or []
    keep = np.array([not gone for gone in _are_named(paths, removed)], bool)
    if keep.all():
        raise UserError(
            f"'{removed}' names none of the {len(paths)} images, such as '{paths[0]}': give a"
            " pattern of their paths, or a text file with a path a line"
            if paths
            else "the gallery is empty already: there is nothing to remove"
        )
    rows = np.flatnonzero(keep)
    none = np.full(len(rows), -1)
    return Plan(rows, none, np.zeros(len(rows), bool), int((~keep).sum()))


def merge_features(
    gallery: np.ndarray | RowFile | None, plan: Plan, fresh: Iterator[np.ndarray], dim: int
) -> Iterator[np.ndarray]:
    """Yield the features of a plan's rows, block by block.

    Args:
      gallery: of the old file, [n, d]; None if there is none.
      plan: the rows.
      fresh: features of the images to embed, in the plan's order, some rows at a time.
      dim: d.
    """
    left = np.empty((0, dim), np.float32)
    if gallery is None:
        yield from fresh
        return
    for start in range(0, len(plan.old), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        is_fresh = plan.is_fresh[part]
        block = np.empty((len(is_fresh), dim), np.float32)
        kept = plan.old[part][~is_fresh]
        block[~is_fresh] = _read_kept(gallery, kept)
        wanted = int(is_fresh.sum())
        while len(left) < wanted:
            left = np.concatenate([left, next(fresh)])
        block[is_fresh], left = left[:wanted], left[wanted:]
        yield block


def merge_columns(
    gallery: FeatureFile | None, plan: Plan, images: DescribedImages | None
) -> dict[str, np.ndarray]:
    """Return the columns of a plan's rows: the list's values, or the old ones where it has none.

    Args:
      gallery: the old file; None if there is none.
      plan: the rows.
      images: the list, after its files have been read; None if there is none.
    """
    new = {} if images is None else {**images.columns, "digest": images.digests}
    before = {} if gallery is None else gallery.columns
    return join_columns([(before, plan.old), (new, plan.listed)], len(plan.old))


def merge_paths(
    gallery: FeatureFile | None, plan: Plan, images: DescribedImages | None
) -> list[str]:
    """Return the paths of a plan's rows, as the list spells them; see `merge_columns`."""
    return [
        images.filenames[i] if images is not None and i >= 0 else gallery.paths[row]  # type: ignore
        for row, i in zip(plan.old.tolist(), plan.listed.tolist(), strict=True)
    ]


def describe_twins(paths: Sequence[str], columns: Mapping[str, np.ndarray]) -> str | None:
    """Return a line that counts the images with the bytes of another image; None for no image.

    Args:
      paths: of n images.
      columns: theirs, with `digest`.
    """
    if "digest" not in columns:
        return None
    first: dict[tuple[str, tuple[float, ...] | None], int] = {}
    pairs = []
    for i, digest in enumerate(columns["digest"].tolist()):
        twin = first.setdefault((digest, box_at(columns, i)), i) if digest else i
        if twin != i:
            pairs.append((twin, i))
    if not pairs:
        return None
    shown = ", ".join(f"'{paths[j]}' is '{paths[i]}'" for i, j in pairs[:SHOWN])
    count = "1 image has" if len(pairs) == 1 else f"{len(pairs)} images have"
    more = ", ..." if len(pairs) > SHOWN else ""
    return printable(f"note: {count} the bytes of another: {shown}{more}")


def _keys(paths: Sequence[str], columns: Mapping[str, np.ndarray]) -> list[_Key]:
    """Return a unique key of each image: path, box, and how often both came before."""
    seen: Counter[tuple[str, tuple[float, ...] | None]] = Counter()
    keys = []
    for i, path in enumerate(paths):
        own = os.path.abspath(path), box_at(columns, i)
        keys.append((*own, seen[own]))
        seen[own] += 1
    return keys


def _has_changed(
    columns: Mapping[str, np.ndarray], row: int, images: DescribedImages, i: int
) -> bool:
    """Return whether file i of a list is not the file that a row's feature was computed from."""
    digest = str(columns["digest"][row]) if "digest" in columns else ""
    for name in ("bytes", "modified"):
        if name not in columns or columns[name].dtype.kind not in "if":
            digest = ""
    if not digest or columns["bytes"][row] != images.columns["bytes"][i]:
        return True
    if columns["modified"][row] != images.columns["modified"][i]:
        try:
            if images.digest(i) != digest:
                return True
        except UserError:
            return True  # embedding names the file
    images.digests[i] = digest
    return False


def _are_named(paths: Sequence[str], removed: str) -> Iterator[bool]:
    """Yield whether each path is to be removed, see `plan_remove`."""
    place = Path(removed)
    whole = [os.path.abspath(path) for path in paths]
    if is_file(place) and not is_image_name(place.name) and os.path.abspath(place) not in whole:
        named = {os.path.abspath(name) for name in read_names(place)}
        yield from (path in named for path in whole)
        return
    try:
        pattern = re.compile(fnmatch.translate(removed))
    except (re.error, OverflowError, RecursionError):
        raise UserError(f"'{removed}' is not a pattern of *, ? and [...]") from None
    folder = os.path.abspath(removed)
    for path, own in zip(paths, whole, strict=True):
        is_below = own == folder or own.startswith(os.path.join(folder, ""))
        yield is_below or pattern.match(path) is not None


def _read_kept(gallery: np.ndarray | RowFile, rows: np.ndarray) -> np.ndarray:
    """Return some rows, as float32; neighbours are read at once."""
    if not len(rows):
        return np.empty((0, gallery.shape[1]), np.float32)
    from batnet_jax.retrieval.chosen_rows import ChosenRows

    return read_rows(ChosenRows(gallery, rows), slice(None))
