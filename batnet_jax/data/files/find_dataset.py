"""Finds a data set in or below the folder that a user names, also inside archives."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from batnet_jax.data.files.tree import FileTree, is_archive, is_hidden, open_tree
from batnet_jax.errors import ArgumentError, UserError
from batnet_jax.runtime.paths import is_folder

COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".gz", ".7z", ".rar")
MAX_MATCHES = 100
"""Limit of the matching folders in one archive."""
SEARCH_DEPTH = 2
"""Levels of folders searched: other packages nest two, as in `market1501/Market-*/`."""


def find_trees(
    manual_dir: str | os.PathLike,
    markers: tuple[str, ...],
    is_wanted: Callable[[FileTree], bool] = lambda _: True,
) -> list[FileTree]:
    """Find the trees that have one of `markers` at their top.

    Folders are searched first: `manual_dir` itself and up to `SEARCH_DEPTH` levels below it. If no
    folder is wanted, archives at the same places are searched, at any depth inside.

    Args:
      manual_dir: a folder or an archive; need not exist.
      markers: relative paths of folders or files. One of them is enough; the caller reports the
        missing ones.
      is_wanted: returns whether a folder makes the search of archives unnecessary.

    Raises: UserError if an archive cannot be read, or if the only archive is compressed as a whole.
    """
    root = Path(manual_dir)
    if not is_folder(root):
        _refuse_compressed(root)
        return _trees_in_archive(root, markers) if is_archive(root) else []
    folders, trees = [root], []
    archives = []
    for _ in range(SEARCH_DEPTH + 1):
        trees += [open_tree(p) for p in folders if any(os.path.exists(p / m) for m in markers)]
        known = {tree.location for tree in trees}
        below = [path for p in folders if str(p) not in known for path in list_candidates(p)]
        archives += [path for path in below if not os.path.isdir(path)]
        folders = [path for path in below if os.path.isdir(path)]
    if not any(map(is_wanted, trees)):
        for path in filter(is_archive, archives):
            trees += _trees_in_archive(path, markers)
    if not trees:
        for path in archives:
            _refuse_compressed(path)
    return trees


def choose_tree(trees: list[FileTree], word: str, hint: str = "name one") -> FileTree:
    """Return the only tree, or the only tree with `word` in its location.

    Args:
      trees: at least one.
      word: in lower case; "" = none.
      hint: the remedy for the message.

    Raises: ArgumentError if several trees are left.
    """
    if word and len(trees) > 1:
        trees = [tree for tree in trees if word in tree.location.lower()] or trees
    if len(trees) > 1:
        raise ArgumentError(
            "manual_dir",
            f"'{trees[0].location}' and '{trees[1].location}' both hold such a data set: {hint}",
        )
    return trees[0]


def list_candidates(folder: Path) -> list[Path]:
    """List the folders and archives in a folder, sorted; empty if it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted(
                Path(entry.path)
                for entry in found
                if not is_hidden(entry.name)
                and (
                    os.path.isdir(entry.path)  # also through a link that may not be followed
                    or entry.name.lower().endswith((".zip", *COMPRESSED_SUFFIXES, ".tar"))
                )
            )
    except OSError:  # no permission
        return []


def _refuse_compressed(path: Path) -> None:
    if os.path.isfile(path) and path.name.lower().endswith(COMPRESSED_SUFFIXES):
        raise UserError(
            f"'{path}' is compressed as a whole, so its images cannot be read one by one: unpack it"
        )


def _trees_in_archive(path: Path, markers: tuple[str, ...]) -> list[FileTree]:
    """Return the trees in an archive that have a marker at their top."""
    tree = open_tree(path)
    tops = {
        name[: found.start()].removesuffix("/")
        for marker in markers
        for name in tree.names
        for found in re.finditer(rf"(?<![^/]){re.escape(marker)}(?![^/])", name)
    }
    if len(tops) > MAX_MATCHES:
        raise UserError(
            f"'{path}' holds {len(tops):,} folders that look like a data set: unpack the one that "
            "is meant"
        )
    return [tree.below(top) if top else tree for top in sorted(tops)]
