"""MSMT17 (Wei et al., CVPR 2018): images in two folders, labels in four lists.

A line of a list is `0000/0000_045_12_0303morning_0006_2.jpg 0`: the path inside the folder and the
pid, which starts at 0 again in the test part. The third field of the name is the camera, 1-15.
The training split is `list_train.txt` and `list_val.txt` together, the 32,621 images that the paper
trains on (Table 1); others train on `list_train.txt` alone.
"""

import posixpath

import tensorflow_datasets as tfds

from batnet_jax.data.builder import Photo, ReIDBuilder, SplitSource
from batnet_jax.data.files import FileTree
from batnet_jax.errors import UserError

FOLDERS = {"v1": ("train", "test"), "v2": ("mask_train_v2", "mask_test_v2")}
LISTS = {
    "train": ("list_train.txt", "list_val.txt"),
    "query": ("list_query.txt",),
    "gallery": ("list_gallery.txt",),
}


class Msmt17(ReIDBuilder):
    """MSMT17: 32,621 images of 1,041 people; query 11,659 of 3,060; gallery 82,161."""

    BUILDER_CONFIGS = [  # noqa: RUF012 - as TFDS wants it
        tfds.core.BuilderConfig(name="v1", description="MSMT17_V1, as released first"),
        tfds.core.BuilderConfig(name="v2", description="MSMT17_V2, with the faces masked"),
    ]
    TITLE = "MSMT17"
    WANTED = "MSMT17_V1/ (config.data.variant=v1) or MSMT17_V2/ (v2)"

    def sources(self) -> dict[str, SplitSource]:
        """See the base class."""
        train, test = FOLDERS[self.variant]
        tree = self.find(self.manual_path, (train, test), "msmt")
        folders = {"train": train, "query": test, "gallery": test}
        return {split: _source(tree, LISTS[split], folders[split]) for split in LISTS}


def _source(tree: FileTree, lists: tuple[str, ...], folder: str) -> SplitSource:
    images = tree.below(folder)
    present = set(images.names)
    photos = []
    for name in lists:
        if name not in tree.names:
            raise UserError(f"'{tree.location}/{name}' is missing: restore it")
        for number, line in enumerate(tree.read(name).decode().splitlines(), start=1):
            if line.strip():
                photos.append(_parse_line(line, f"'{tree.location}/{name}', line {number}"))
                if photos[-1].filename not in present:
                    raise UserError(
                        f"'{images.location}/{photos[-1].filename}' is missing, though {name} "
                        "lists it: restore it"
                    )
    if not photos:
        raise UserError(f"'{tree.location}': {' and '.join(lists)} list nothing: restore them")
    photos.sort()
    return SplitSource(photos, map(images.read, [photo.filename for photo in photos]))


def _parse_line(line: str, place: str) -> Photo:
    try:
        name, pid = line.rsplit(maxsplit=1)
        return Photo(name, int(pid), int(posixpath.basename(name).split("_")[2]))
    except (ValueError, IndexError):
        raise UserError(
            f"{place}: {line!r} is not 'FOLDER/x_x_CAMERA_x.jpg PID': restore the list"
        ) from None
