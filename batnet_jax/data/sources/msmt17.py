"""MSMT17 (Wei et al., CVPR 2018): images in two folders, labels in four lists.

A line of a list is `0000/0000_045_12_0303morning_0006_2.jpg 0`: the path inside the folder and the
pid; training and test pids both start at 0. The third field of the filename is the camera, 1-15.

The training split is `list_train.txt` and `list_val.txt` together, the 32,621 training images of
the paper (Table 1); some other packages train only on `list_train.txt`. The split `val` repeats the
images of `list_val.txt`, which show the same people; `run_data` can take them out of training.
"""

import posixpath
from collections.abc import Mapping

import tensorflow_datasets as tfds

from batnet_jax.data.builder import NO_READING, Photo, Reading, ReIDBuilder, SplitSource
from batnet_jax.data.checks import Count
from batnet_jax.data.files.find_dataset import find_trees
from batnet_jax.data.files.tree import FileTree
from batnet_jax.data.sources.market import make_source
from batnet_jax.errors import UserError

FOLDERS = {"v1": ("train", "test"), "v2": ("mask_train_v2", "mask_test_v2")}
LISTS = {
    "train": ("list_train.txt", "list_val.txt"),
    "val": ("list_val.txt",),
    "query": ("list_query.txt",),
    "gallery": ("list_gallery.txt",),
}
MAX_LABEL = 10**9  # limit of pids and cameras
MARKERS = tuple(dict.fromkeys(name for names in LISTS.values() for name in names))


class Msmt17(ReIDBuilder):
    """MSMT17: 32,621 images of 1,041 people; query 11,659 of 3,060; gallery 82,161."""

    BUILDER_CONFIGS = [  # noqa: RUF012 - as TFDS wants it
        tfds.core.BuilderConfig(name="v1", description="MSMT17_V1, the first release"),
        tfds.core.BuilderConfig(name="v2", description="MSMT17_V2, with the faces masked"),
    ]
    TITLE = "MSMT17"
    WANTED = "MSMT17_V1/ (variant v1) or MSMT17_V2/ (variant v2)"
    FOLDER_WORD = "msmt"
    DETECTS_VARIANT = True

    @classmethod
    def choose_config(
        cls, variant: str, manual_dir: str, reading: Reading = NO_READING
    ) -> str | tfds.core.BuilderConfig | None:
        """See the base class; "" = the version in `manual_dir`."""
        found = (
            {version_of(tree) for tree in find_trees(manual_dir, MARKERS)} if not variant else ()
        )
        return super().choose_config("v2" if found == {"v2"} else variant, manual_dir, reading)

    def sources(self) -> dict[str, SplitSource]:
        """See the base class."""
        tree = self.find(self.manual_path, MARKERS, self.other_version)
        train, test = FOLDERS[self.variant]
        trained, tested = tree.below(train), tree.below(test)  # each is listed once
        images = {"train": trained, "val": trained, "query": tested, "gallery": tested}
        return {split: _source(tree, LISTS[split], images[split]) for split in LISTS}

    def other_version(self, tree: FileTree) -> str:
        """Return a message if a tree holds the other version; else ""."""
        version = version_of(tree)
        if version == self.variant:
            return ""
        return f"'{tree.location}' is MSMT17_{version.upper()}: choose variant {version}"

    def published_counts(self) -> Mapping[str, Count]:
        """See the base class: the counts of the lists and of the paper's Table 1."""
        return {
            "train": Count(32_621, 1_041, 15),
            "val": Count(2_373, 1_041, 15),
            "query": Count(11_659, 3_060, 15),
            "gallery": Count(82_161, 3_060, 15),
        }


def version_of(tree: FileTree) -> str:
    """Return the version; the folders of V2 begin with mask_."""
    return "v2" if any(name.startswith("mask_") for name in tree.names) else "v1"


def _source(tree: FileTree, lists: tuple[str, ...], images: FileTree) -> SplitSource:
    present = set(images.names)
    photos: dict[str, Photo] = {}
    for name in lists:
        if name not in tree.names:
            raise UserError(f"'{tree.location}/{name}' is missing: restore it")
        for number, line in enumerate(
            tree.read(name).decode(errors="replace").splitlines(), start=1
        ):
            if not line.strip():
                continue
            place = f"'{tree.location}/{name}', line {number}"
            photo = _parse_line(line, place)
            if photo.filename not in present:
                raise UserError(
                    f"'{images.location}/{photo.filename}' is missing, but {name} lists it: "
                    "restore it"
                )
            if photo.filename in photos:
                raise UserError(f"{place}: {photo.filename} is listed twice: restore the list")
            photos[photo.filename] = photo
    if not photos:
        raise UserError(f"'{tree.location}': {' and '.join(lists)} list nothing: restore them")
    return make_source(sorted(photos.values()), images)


def _parse_line(line: str, place: str) -> Photo:
    try:
        name, pid = line.rsplit(maxsplit=1)
        photo = Photo(name, int(pid), int(posixpath.basename(name).split("_")[2]))
        if not 0 <= photo.pid < MAX_LABEL or not 0 <= photo.camera < MAX_LABEL:
            raise ValueError
        return photo
    except (ValueError, IndexError):
        raise UserError(
            f"{place}: {line!r} is not 'FOLDER/x_x_CAMERA_x.jpg PID': restore the list"
        ) from None
