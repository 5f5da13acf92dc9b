"""Market-1501 (Zheng et al., ICCV 2015) and the data sets that share its layout.

The folders `bounding_box_train`, `query` and `bounding_box_test` hold images whose filenames begin
with pid and camera: `0001_c1s1_001051_00.jpg`, `0001_c2_f0046182.jpg`. In Market-1501 the pid -1
marks junk (a detector's bad boxes), which is left out because it would distort the ranking as
negatives. The pid 0 marks distractors, which stay in the gallery.

Two parts of Market-1501 are optional and become splits if they exist: `gt_bbox`, more boxes of the
query identities, drawn by hand, for multi-image queries (split `multi_query`); and the 500,000
distractors of the second archive (split `distractors`).
"""

import posixpath
import re
from collections.abc import Mapping
from functools import partial

from batnet_jax.data.builder import Photo, ReIDBuilder, SplitSource
from batnet_jax.data.checks import Count
from batnet_jax.data.files.tree import IMAGES, FileTree
from batnet_jax.errors import UserError

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
MARKERS = tuple(FOLDERS.values())
MULTI_QUERY = "gt_bbox"
DISTRACTORS = ("distractors_500k", "distractors", "images")
"""Common names of the second archive's folder; Torchreid uses the last one."""
JUNK = -1
NAME = re.compile(r"(-1|\d{1,9})_c(\d{1,9})")
STYLES = {
    "Market-1501": re.compile(r"(-1|\d+)_c\d+s\d"),
    "DukeMTMC-reID": re.compile(r"\d+_c\d+_f\d"),
    "CUHK03-NP": re.compile(r"\d+_c\d+_\d+\.png$"),
}
"""Filenames of the public data sets in this layout; their ends after the camera differ."""


class Market1501(ReIDBuilder):
    """Market-1501: 12,936 images of 751 people; query 3,368 of 750; gallery 15,913."""

    TITLE = "Market-1501"
    WANTED = "Market-1501-v15.09.15/"
    FOLDER_WORD = "market"
    DISTRACTOR_PID = 0

    def sources(self) -> dict[str, SplitSource]:
        """See the base class."""
        tree = self.find(self.manual_path, MARKERS, partial(other_dataset, title=self.TITLE))
        sources = market_sources(tree)
        boxes = tree.below(MULTI_QUERY)
        if boxes.images():
            queries = {(photo.pid, photo.camera) for photo in sources["query"].photos}
            photos = [parse_name(name, boxes.location) for name in boxes.images()]
            photos = [photo for photo in photos if (photo.pid, photo.camera) in queries]
            if photos:
                sources["multi_query"] = make_source(photos, boxes)
        for folder in DISTRACTORS:
            crowd = tree.below(folder)
            if crowd.images():
                photos = [_distractor(name) for name in crowd.images()]
                sources["distractors"] = make_source(photos, crowd)
                break
        return sources

    def published_counts(self) -> Mapping[str, Count]:
        """See the base class: the counts of the authors' page and lists."""
        return {
            "train": Count(12_936, 751, 6),
            "query": Count(3_368, 750, 6),
            "gallery": Count(15_913, 750, 6, distractors=2_798, junk=3_819),
        }


class DukemtmcReid(ReIDBuilder):
    """DukeMTMC-reID: 16,522 images of 702 people; query 2,228 of 702; gallery 17,661 of 1,110.

    The authors have withdrawn the data set. This builder reads the user's copy and downloads
    nothing.
    """

    TITLE = "DukeMTMC-reID"
    WANTED = "DukeMTMC-reID/"
    FOLDER_WORD = "duke"

    def sources(self) -> dict[str, SplitSource]:
        """See the base class."""
        problem = partial(other_dataset, title=self.TITLE)
        return market_sources(self.find(self.manual_path, MARKERS, problem))

    def published_counts(self) -> Mapping[str, Count]:
        """See the base class: the counts of Zheng et al. (ICCV 2017)."""
        return {
            "train": Count(16_522, 702, 8),
            "query": Count(2_228, 702, 8),
            "gallery": Count(17_661, 1_110, 8),
        }


def other_dataset(tree: FileTree, title: str) -> str:
    """Return a message if the filenames belong to a data set other than `title`; else ""."""
    names = [name for folder in ("query", *MARKERS) for name in tree.below(folder).images()[:20]]
    for other, style in STYLES.items():
        if names and other != title and all(style.match(posixpath.basename(n)) for n in names):
            return f"'{tree.location}' is {other}"
    return ""


def market_sources(tree: FileTree, pattern: re.Pattern[str] = NAME) -> dict[str, SplitSource]:
    """Return the three splits of a tree in Market-1501's layout.

    Args:
      tree: a tree with the three `FOLDERS` at its top.
      pattern: the start of the filenames; its groups are pid and camera.

    Raises: UserError if a folder has no images, or a filename does not match.
    """
    return {split: _source(tree.below(folder), pattern) for split, folder in FOLDERS.items()}


def _source(tree: FileTree, pattern: re.Pattern[str]) -> SplitSource:
    found = [parse_name(name, tree.location, pattern) for name in tree.images()]
    photos = [photo for photo in found if photo.pid != JUNK]
    if not photos:
        raise UserError(
            f"'{tree.location}' is missing or holds no images: Market's layout is "
            f"{', '.join(MARKERS)}, each with {IMAGES} files"
        )
    return make_source(photos, tree, junk=len(found) - len(photos))


def make_source(photos: list[Photo], tree: FileTree, *, junk: int = 0) -> SplitSource:
    """Return a split of photos whose files are in one tree."""
    return SplitSource(photos, map(tree.read, [photo.filename for photo in photos]), junk, tree)


def parse_name(name: str, location: str, pattern: re.Pattern[str] = NAME) -> Photo:
    """Parse the labels in a filename, without its folders.

    Raises: UserError if the filename does not begin with `pattern`.
    """
    match = pattern.match(posixpath.basename(name))
    if match is None:
        raise UserError(
            f"'{location}/{name}' does not begin with PID_cCAMERA, as 0001_c1s1_001051_00.jpg does:"
            " rename or remove it"
        )
    return Photo(name, int(match[1]), int(match[2]))


def _distractor(name: str) -> Photo:
    """Return the labels of a distractor: pid 0, whatever the filename says."""
    match = NAME.match(posixpath.basename(name))
    return Photo(name, 0, int(match[2]) if match else 0)
