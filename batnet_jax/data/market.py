"""Market-1501 (Zheng et al., ICCV 2015) and the data sets that share its layout.

The folders `bounding_box_train`, `query` and `bounding_box_test` hold images whose names begin with
pid and camera: `0001_c1s1_001051_00.jpg`, `0001_c2_f0046182.jpg`. In Market-1501 the pid -1 marks
junk (a detector's bad boxes), which is dropped: as negatives it would distort the ranking. The
pid 0 marks distractors, which stay in the gallery.
"""

import posixpath
import re

from batnet_jax.data.builder import Photo, ReIDBuilder, SplitSource
from batnet_jax.data.files import FileTree
from batnet_jax.errors import UserError

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
JUNK = -1
NAME = re.compile(r"(-1|\d+)_c(\d+)")


class Market1501(ReIDBuilder):
    """Market-1501: 12,936 images of 751 people; query 3,368 of 750; gallery 15,913."""

    TITLE = "Market-1501"
    WANTED = "Market-1501-v15.09.15/"

    def sources(self) -> dict[str, SplitSource]:
        """See the base class."""
        return market_sources(self.find(self.manual_path, tuple(FOLDERS.values()), "market"))


class DukemtmcReid(ReIDBuilder):
    """DukeMTMC-reID: 16,522 images of 702 people; query 2,228 of 702; gallery 17,661 of 1,110.

    Its authors have withdrawn it: this reads a copy that the user holds, and fetches nothing.
    """

    TITLE = "DukeMTMC-reID"
    WANTED = "DukeMTMC-reID/"

    def sources(self) -> dict[str, SplitSource]:
        """See the base class."""
        return market_sources(self.find(self.manual_path, tuple(FOLDERS.values()), "duke"))


def market_sources(tree: FileTree, pattern: re.Pattern[str] = NAME) -> dict[str, SplitSource]:
    """The three splits of a tree in Market's layout.

    Args:
      tree: with the three `FOLDERS` at its top.
      pattern: what the images' names begin with; its groups are pid and camera.

    Raises: UserError if a folder lacks images, or an image's name does not fit.
    """
    return {split: _source(tree.below(folder), pattern) for split, folder in FOLDERS.items()}


def _source(tree: FileTree, pattern: re.Pattern[str]) -> SplitSource:
    photos = [parse_name(name, tree.location, pattern) for name in tree.images()]
    photos = [photo for photo in photos if photo.pid != JUNK]
    if not photos:
        raise UserError(
            f"'{tree.location}' is missing or holds no images: Market's layout is "
            f"{', '.join(FOLDERS.values())}, each with .jpg, .png, .bmp or .webp files"
        )
    return SplitSource(photos, map(tree.read, [photo.filename for photo in photos]))


def parse_name(name: str, location: str, pattern: re.Pattern[str] = NAME) -> Photo:
    """Reads the labels from a file's name; folders in it do not count.

    Raises: UserError if it does not begin with `pattern`.
    """
    match = pattern.match(posixpath.basename(name))
    if match is None:
        raise UserError(
            f"'{location}/{name}' does not begin with PID_cCAMERA, as 0001_c1s1_001051_00.jpg does:"
            " rename or remove it"
        )
    return Photo(name, int(match[1]), int(match[2]))
