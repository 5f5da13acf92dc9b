"""Where a data set lies below the folder that a user names: in folders, or inside an archive."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from batnet_jax.data.files.tree import FileTree, is_archive, is_hidden, open_tree
from batnet_jax.errors import ArgumentError, UserError

COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".gz", ".7z", ".rar")
MAX_MATCHES = 100
"""In one archive."""
SEARCH_DEPTH = 2
"""How many folders below manual_dir data sets are looked for: peers nest `market1501/Market-*/`."""


def find_trees(
    manual_dir: str | os.PathLike,
    markers: tuple[str, ...],
    is_wanted: Callable[[FileTree], bool] = lambda _: True,
) -> list[FileTree]:
    """Finds the trees that have one of `markers` at their top.

    Looks at `manual_dir` itself, then at what lies in it, up to `SEARCH_DEPTH` folders deep: folders, and
    if none of these will do, archives. An archive may hold the layout anywhere inside.

    Args:
      manual_dir: a directory or an archive; need not exist.
      markers: relative paths of folders or files; one of them is enough, the caller notices what
        is missing.
      is_wanted: archives are looked into if no folder's tree is.

    Raises: UserError if an archive cannot be read, or there is nothing but a compressed one.
    """
    root = Path(manual_dir)
    if not root.is_dir():
        _refuse_compressed(root)
        return _inside(root, markers) if is_archive(root) else []
    places, trees = [root], []
    archives = []
    for _ in range(SEARCH_DEPTH + 1):
        trees += [open_tree(p) for p in places if any(os.path.exists(p / m) for m in markers)]
        known = {tree.location for tree in trees}
        below = [e for p in places if str(p) not in known for e in list_candidates(p)]
        archives += [path for path in below if not path.is_dir()]
        places = [path for path in below if path.is_dir()]
    if not any(map(is_wanted, trees)):
        trees += [tree for path in archives if is_archive(path) for tree in _inside(path, markers)]
    if not trees:
        for path in archives:
            _refuse_compressed(path)
    return trees


def choose_tree(trees: list[FileTree], word: str) -> FileTree:
    """The only tree, or the only one with `word` ("" = none) in the name of its place.

    Raises: UserError if this leaves several.
    """
    if word and len(trees) > 1:
        trees = [tree for tree in trees if word in tree.location.lower()] or trees
    if len(trees) > 1:
        raise ArgumentError(
            "manual_dir",
            f"'{trees[0].location}' and '{trees[1].location}' both hold such a data set: name one",
        )
    return trees[0]


def list_candidates(folder: Path) -> list[Path]:
    """The folders and archives in a folder, sorted; none if it may not be read."""
    try:
        with os.scandir(folder) as found:
            return sorted(
                Path(entry.path)
                for entry in found
                if not is_hidden(entry.name)
                and (
                    entry.is_dir()
                    or entry.name.lower().endswith((".zip", *COMPRESSED_SUFFIXES, ".tar"))
                )
            )
    except OSError:  # not ours to read
        return []


def _refuse_compressed(path: Path) -> None:
    if path.is_file() and path.name.lower().endswith(COMPRESSED_SUFFIXES):
        raise UserError(
            f"'{path}' is compressed as a whole, so its images cannot be read one by one: unpack it"
        )


def _inside(path: Path, markers: tuple[str, ...]) -> list[FileTree]:
    """The trees in an archive that have a marker at their top."""
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
