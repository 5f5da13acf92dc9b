"""Finds the folders of splits, or the folder of people, in or below a user's folder or archive."""

import itertools
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from batnet_jax.data.files.find_dataset import SEARCH_DEPTH, list_candidates
from batnet_jax.data.files.tree import FileTree, is_archive, is_hidden, is_image_name, open_tree
from batnet_jax.data.sources.file_labels import camera_of, pid_of
from batnet_jax.data.sources.market import FOLDERS
from batnet_jax.errors import UserError
from batnet_jax.runtime.paths import is_folder

NAMES: dict[str, tuple[str, ...]] = {
    "train": (
        *("boundingboxtrain", "train", "training", "imagetrain", "imagestrain", "trainimages"),
        *("trainset", "trainingset", "traindata", "trainingdata", "bboxtrain", "trainall"),
    ),
    "query": (
        *("query", "queries", "imagequery", "imagesquery", "queryimages", "queryset"),
        *("boundingboxquery", "bboxquery", "probe", "probes", "probeset", "testquery", "testprobe"),
    ),
    "gallery": (
        *("boundingboxtest", "gallery", "galleries", "imagegallery", "imagesgallery"),
        *("galleryimages", "galleryset", "boundingboxgallery", "bboxgallery", "testgallery"),
    ),
    "test": (
        *("test", "testing", "imagetest", "imagestest", "testimages", "testset", "testingset"),
        *("testdata", "testingdata", "bboxtest"),
    ),
    "val": ("val", "valid", "validation", "valset", "validationset", "imageval", "dev"),
}
"""Names of the folder of each split, in lower case without `_`, `-` and spaces, the usual first.
`test` is the gallery beside a query, else divided; `val` is the test if no other is there."""
EXACT = (*FOLDERS.values(), "gallery", "train", "test")
"""Names of which one alone shows that the folders are splits."""
MAX_DEPTH = 20
"""Levels of nested folders searched for the folders of people."""
_ROLES = {name: role for role, names in NAMES.items() for name in names}


class Parts(NamedTuple):
    """The trees to read."""

    trees: dict[str, FileTree]
    """train, query and gallery; or train and test; or all."""
    left_out: list[str]
    """Folders beside the splits that are not read."""


def role_of(folder: str) -> str | None:
    """Return the split that a folder's name stands for, in any case; None = no split."""
    return _ROLES.get(re.sub(r"[-_ ]", "", folder.lower()))


def has_splits(folders: Iterable[str]) -> bool:
    """Return whether sibling folders are splits: two of different kinds, or a usual one."""
    folders = list(folders)
    return len({role_of(f) for f in folders} - {None}) > 1 or any(f in EXACT for f in folders)


def folders_of(tree: FileTree) -> list[str]:
    """Return the sorted names of the folders at the top of a tree; one on disk may be empty."""
    path = Path(tree.location)
    if is_folder(path):
        return [p.name for p in list_candidates(path) if os.path.isdir(p)]
    return sorted({name.split("/")[0] for name in tree.names if "/" in name})


def markers(manual_dir: Path) -> tuple[str, ...]:
    """Return the names of folders of splits in and below a folder, or in the archives there."""
    found: set[str] = set()
    archives = [manual_dir]
    places = [manual_dir]
    for _ in range(SEARCH_DEPTH + 1):
        below = {place: list_candidates(place) for place in places if os.path.isdir(place)}
        for paths in below.values():
            names = [path.name for path in paths if os.path.isdir(path)]
            found.update(name for name in names if role_of(name) and has_splits(names))
        places = list(itertools.chain(*below.values()))
        archives += places
    if not found:
        found.update(*map(_archive_markers, filter(is_archive, archives)))
    return tuple(sorted(found | set(EXACT)))


def _archive_markers(path: Path) -> set[str]:
    """Return the names of folders of splits in an archive."""
    siblings: dict[str, set[str]] = {}
    for name in open_tree(path).names:
        while name := posixpath.dirname(name):
            above, own = posixpath.split(name)
            siblings.setdefault(above, set()).add(own)
    names = [own for found in siblings.values() if has_splits(found) for own in found]
    return {name for name in names if role_of(name)}


def split_parts(tree: FileTree, folders: Iterable[str]) -> Parts:
    """Return the trees of the splits.

    Args:
      tree: with folders of splits at its top.
      folders: the names of all folders at its top.

    Raises: UserError if two folders differ only in their spelling.
    """
    by_role: dict[str, list[str]] = {}
    for folder in folders:
        if role := role_of(folder):
            by_role.setdefault(role, []).append(folder)
    chosen = {role: _choose(role, found, tree) for role, found in by_role.items()}
    wanted = _layout(chosen)
    left_out = sorted(set(folders) - set(wanted.values()))
    trees = {split: tree.below(folder) for split, folder in wanted.items()}
    if "test" in trees:
        inside = folders_of(trees["test"])
        if {"query", "gallery"} <= {role_of(folder) for folder in inside}:  # test/query, ...
            nested = split_parts(trees.pop("test"), [f for f in inside if role_of(f) != "train"])
            left_out += [f"{wanted['test']}/{folder}" for folder in nested.left_out]
            trees |= {split: nested.trees[split] for split in ("query", "gallery")}
    return Parts(trees, left_out)


def _choose(role: str, found: list[str], tree: FileTree) -> str:
    """Return the folder with the most usual name."""

    def place(folder: str) -> int:
        return NAMES[role].index(re.sub(r"[-_ ]", "", folder.lower()))

    exact = [folder for folder in found if folder in EXACT]
    first, *others = sorted(exact or found, key=place)
    if others and place(first) == place(others[0]):
        raise UserError(
            f"'{tree.location}' holds '{first}' and '{others[0]}': both may be the {role} split; "
            "keep one there"
        )
    return first


def _layout(chosen: dict[str, str]) -> dict[str, str]:
    """Return the folder of each part to read, named as usual where it is missing."""
    market = any(folder in (FOLDERS["train"], FOLDERS["gallery"]) for folder in chosen.values())
    usual = FOLDERS if market else {"train": "train", "query": "query", "gallery": "gallery"}
    train = chosen.get("train", usual["train"])
    if market or "query" in chosen or "gallery" in chosen:
        gallery = chosen.get("gallery", chosen.get("test", usual["gallery"]))
        return {"train": train, "query": chosen.get("query", usual["query"]), "gallery": gallery}
    return {"train": train, "test": chosen.get("test", chosen.get("val", "test"))}


def find_people(path: Path, *, sure: bool = False) -> FileTree | None:
    """Find a tree of people, or of labelled images, at `path` or nested below it; None = none.

    The search reads as few folders as possible, because `path` may be the root of a disk.

    Args:
      path: the user's folder or archive; need not exist.
      sure: the user says that no folder is a split, whatever its name.
    """
    if not is_folder(path):
        return _people_in_archive(path, sure) if is_archive(path) else None
    for _ in range(MAX_DEPTH):
        folders = [p for p in list_candidates(path) if os.path.isdir(p)]
        below = [
            [p.name for p in list_candidates(folder) if os.path.isdir(p)] for folder in folders
        ]
        if not sure and any(has_splits(f) for f in ([p.name for p in folders], *below)):
            return None
        found = list(itertools.islice((p for p in folders if _has_image(p)), 2))
        if len(found) > 1:
            return open_tree(path)
        if not found and _are_labelled(_own_images(path)):
            return open_tree(path)
        if len(folders) != 1:
            return None
        path = folders[0]
    return None


def _people_in_archive(path: Path, sure: bool) -> FileTree | None:
    tree = open_tree(path)
    while len(tops := {name.split("/")[0] for name in tree.images()}) == 1:
        below = tree.below(*tops)
        if not below.images():  # the only top is an image
            return None
        tree = below
    names = tree.images()
    upper: set[str] = set()
    second: dict[str, set[str]] = {}
    for *folders, _ in (name.split("/") for name in tree.names):
        upper.update(folders[:1])
        if len(folders) > 1:
            second.setdefault(folders[0], set()).add(folders[1])
    if not sure and any(has_splits(found) for found in (upper, *second.values())):
        return None
    inside = all("/" in name for name in names)
    return tree if (len(tops) > 1 and inside) or _are_labelled(names) else None


def _own_images(path: Path) -> list[str]:
    try:
        with os.scandir(path) as found:
            names = [e.name for e in found if is_image_name(e.name)]
    except OSError:  # no permission
        return []
    return [name for name in names if not is_hidden(name)]


def _are_labelled(names: list[str]) -> bool:
    """Return whether filenames alone tell people: at least two people of two images or more."""
    if any("/" in name for name in names):
        return False
    pids = Counter(pid_of(name) for name in names)
    several = sum(number > 1 for number in pids.values()) > 1
    return None not in pids and (several or (len(pids) > 1 and all(map(camera_of, names))))


def _has_image(folder: Path) -> bool:
    try:
        walk = ((os.path.relpath(at, folder), files) for at, _, files in os.walk(folder))
        names = (name for at, files in walk if not is_hidden(at) for name in files)
        return any(map(is_image_name, itertools.islice(names, 1000)))
    except (OSError, RecursionError):  # no permission, or too many nested folders
        return False
