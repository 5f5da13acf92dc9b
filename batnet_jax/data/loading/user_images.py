"""Image files outside a data set, which a user names."""

import sys
from collections.abc import Sequence
from pathlib import Path

from batnet_jax.data.files.image_headers import is_cut_off, is_known
from batnet_jax.data.files.safe_open import read_whole
from batnet_jax.data.files.tree import (
    describe_left_out,
    image_suffixes,
    is_image_name,
    open_tree,
)
from batnet_jax.data.loading.name_list import NameList, read_names
from batnet_jax.errors import UserError, printable
from batnet_jax.runtime.paths import exists, is_file, is_folder


class ImageFiles:
    """Image files named by their paths; a source for an `ImageStore`."""

    def __init__(self, filenames: Sequence[str]):
        """Keep the paths; no file is read."""
        self.filenames = filenames if isinstance(filenames, NameList) else list(filenames)

    def __len__(self) -> int:
        return len(self.filenames)

    def encoded(self, i: int) -> bytes:
        """Return the bytes of file i; safe to call from several threads.

        Raises: UserError if the file cannot be read, is too large or is cut off.
        """
        name = self.filenames[i]
        try:
            content = read_whole(name)
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"'{name}' cannot be read ({reason}): restore or leave it out"
            ) from error
        if is_cut_off(content):
            raise UserError(f"'{name}' is cut off: restore or leave it out")
        return content


def list_files(place: Path) -> Sequence[str]:
    """List the paths of the images in a folder or a list.

    A line on stderr counts the files of a folder that are left out for their suffix.

    Args:
      place: a folder (for all images below it, sorted by name), an image, or a text file with one
        path a line, relative to the text file, see `NameList`; empty lines and comments, which
        begin with #, are skipped.

    Returns: paths that can be opened from the current folder.

    Raises: UserError if `place` does not exist or holds no image.
    """
    if is_folder(place):
        return _list_folder(place)
    if not is_file(place):
        what = "is neither a file nor a folder" if exists(place) else "does not exist"
        raise UserError(f"'{place}' {what}: name a folder, an image, or a list of images")
    if is_image_name(place.name) or _begins_as_image(place):
        return [str(place)]
    return read_names(place)


def _list_folder(place: Path) -> list[str]:
    tree = open_tree(place)
    names, left_out = tree.images(), describe_left_out(tree.left_out())
    if not names:
        wanted = ", ".join(image_suffixes())
        seen = f"; {left_out}" if left_out else ""
        raise UserError(f"'{place}' holds no image ({wanted}){seen}: name another folder")
    if left_out:
        print(f"warning: '{printable(str(place))}': {left_out}", file=sys.stderr)
    return [str(place / name) for name in names]


def _begins_as_image(place: Path) -> bool:
    try:
        return is_known(read_whole(place))
    except OSError:
        return False
