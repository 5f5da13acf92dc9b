"""The exhibit of the data: some identities with their images, and the counts of a test."""

import ml_collections
import numpy as np

from batnet_jax.data import Split
from batnet_jax.evaluation.ranked_test import RankedTest
from batnet_jax.modes.report_lists import add_images, page_image
from batnet_jax.report.cards import PageImage
from batnet_jax.report.page import Section
from batnet_jax.report.sheet import SheetRow, sheet_section
from batnet_jax.report.thumbnails import Thumbnails
from batnet_jax.retrieval import JUNK_PID

IDENTITIES, IMAGES = 12, 8
"""Identities of the sheet, and images of each."""


def data_section(
    config: ml_collections.ConfigDict,
    ranked: RankedTest,
    thumbnails: Thumbnails,
    *,
    key: str,
    title: str,
) -> Section:
    """Make the section of a test's images as they were read.

    Args:
      config: its `data.image_size` is read.
      ranked: the test.
      thumbnails: collects the images.
      key: the section's.
      title: the section's.
    """
    test = ranked.test
    pids = np.unique(test.query.pids)
    chosen = pids[np.unique(np.linspace(0, len(pids) - 1, IDENTITIES).astype(int))]
    splits = ((test.query, ranked.query_store), (test.gallery, ranked.gallery_store))
    images: dict[int, list[PageImage]] = {int(pid): [] for pid in chosen}
    counts = dict.fromkeys(images, 0)
    for split, store in splits:
        items = []
        for pid in images:
            own = np.flatnonzero(split.pids == pid)
            counts[pid] += len(own)
            # Queries leave half of the room to the gallery.
            room = IMAGES // 2 if split is test.query else IMAGES - len(images[pid])
            items += [(pid, int(i)) for i in own[:room]]
        names = add_images(store, [i for _, i in items], thumbnails)
        for pid, i in items:
            images[pid].append(page_image(test, split, i, names[i]))
    return sheet_section(
        [SheetRow(own, counts[pid]) for pid, own in images.items()],
        {"query": _describe(test.query), "gallery": _describe(test.gallery)},
        input_size=tuple(config.data.image_size),
        num_identities=len(pids),
        key=key,
        title=title,
    )


def _describe(split: Split) -> list[str]:
    """Return a split's images, identities, cameras and median size, as text."""
    people = len(np.unique(split.pids[split.pids != JUNK_PID]))
    known = split.cameras[split.cameras >= 0]
    cameras = f"{len(np.unique(known)):,}" if len(known) else "unknown"
    size = "unknown"
    if split.shapes is not None and len(split.shapes):
        height, width = np.median(split.shapes, axis=0)
        size = f"{height:.0f} x {width:.0f}"
    return [f"{len(split):,}", f"{people:,}", cameras, size]


def median_aspect_of(split: Split) -> float:
    """Return the median height / width of a split's images; a person's if it is unknown."""
    if split.shapes is None or not len(split.shapes):
        return 2.0
    return float(np.median(split.shapes[:, 0] / np.maximum(split.shapes[:, 1], 1)))
