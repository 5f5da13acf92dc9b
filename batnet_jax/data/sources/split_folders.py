"""Finds the folders of splits in or below a user's folder or archive."""

import itertools
import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from batnet_jax.data.files.find_dataset import SEARCH_DEPTH, list_candidates
from batnet_jax.data.files.tree import FileTree, is_archive, open_tree
from batnet_jax.data.sources.market import FOLDERS
from batnet_jax.errors import UserError
from batnet_jax.runtime.paths import is_folder

NAMES: dict[str, tuple[str, ...]] = {
    "train": (
        *("boundingboxtrain", "train", "training", "imagetrain", "imagestrain", "trainimages"),
        *(
            "trainset",
            "trainingset",
            "traindata",
            "trainingdata",
            "bboxtrain",
            "trainall",
            "trainval",
        ),
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
        *("testdata", "testingdata", "bboxtest", "eval", "evaluation", "evalset", "holdout"),
    ),
    "val": ("val", "valid", "validation", "valset", "validationset", "imageval", "dev"),
}
"""Names of the folder of each split, in lower case without `_`, `-` and spaces, the usual first.
`test` is the gallery beside a query, otherwise it is divided; `val` is the test if there is no
other."""
EXACT = (*FOLDERS.values(), "gallery", "train", "test")
"""Names that show that the folders are splits, even a single one."""
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


def guess_role(folder: str) -> str | None:
    """Return the split that a word in a folder's name stands for, as in `my_train2017`."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", folder)
    found = {role_of(folder), *map(role_of, words)}
    return next(
        (role for role in ("query", "gallery", "train", "val", "test") if role in found), None
    )


def are_like_splits(folders: Iterable[str]) -> bool:
    """Return whether words in the names of siblings are splits, for training and for a test."""
    roles = {guess_role(folder) for folder in folders}
    return "train" in roles and bool(roles & {"query", "gallery", "test", "val"})


def has_splits(folders: Iterable[str], *, guess: bool = False) -> bool:
    """Return whether sibling folders are splits: two different splits, or a name of `EXACT`.

    Args:
      folders: names.
      guess: the user says that folders are splits, so words in their names count, too.
    """
    folders = list(folders)
    usual = len({role_of(f) for f in folders} - {None}) > 1 or any(f in EXACT for f in folders)
    return usual or (guess and are_like_splits(folders))


def folders_of(tree: FileTree) -> list[str]:
    """Return the sorted names of the folders at the top of a tree; on disk also empty folders."""
    path = Path(tree.location)
    if is_folder(path):
        return [p.name for p in list_candidates(path) if os.path.isdir(p)]
    return sorted({name.split("/")[0] for name in tree.names if "/" in name})


def markers(manual_dir: Path, *, guess: bool = False) -> tuple[str, ...]:
    """Return the names of folders of splits in and below a folder, or in the archives there.

    Folders are searched first. If none is found, archives are.

    Args:
      manual_dir: the user's folder or archive.
      guess: see `has_splits`.
    """
    role = guess_role if guess else role_of
    found: set[str] = set()
    archives = [manual_dir]
    places = [manual_dir]
    for _ in range(SEARCH_DEPTH + 1):
        below = {place: list_candidates(place) for place in places if os.path.isdir(place)}
        for paths in below.values():
            names = [path.name for path in paths if os.path.isdir(path)]
            found.update(name for name in names if role(name) and has_splits(names, guess=guess))
        places = list(itertools.chain(*below.values()))
        archives += places
    if not found:
        for path in filter(is_archive, archives):
            sets = (names for names in _siblings(path) if has_splits(names, guess=guess))
            found.update(name for names in sets for name in names if role(name))
    return tuple(sorted(found))


def _siblings(path: Path) -> list[set[str]]:
    """Return the names of the folders in each folder of an archive."""
    siblings: dict[str, set[str]] = {}
    for name in open_tree(path).names:
        while name := posixpath.dirname(name):
            above, own = posixpath.split(name)
            siblings.setdefault(above, set()).add(own)
    return list(siblings.values())


def split_parts(tree: FileTree, folders: Iterable[str], *, guess: bool = False) -> Parts:
    """Return the trees of the splits.

    Args:
      tree: with folders of splits at its top.
      folders: the names of all folders at its top.
      guess: see `has_splits`.

    Raises: UserError if two folders may be the same split.
    """
    role_in = guess_role if guess else role_of
    by_role: dict[str, list[str]] = {}
    for folder in folders:
        if role := role_in(folder):
            by_role.setdefault(role, []).append(folder)
    chosen = {role: _choose(role, found, tree) for role, found in by_role.items()}
    wanted = _layout(chosen)
    left_out = sorted(set(folders) - set(wanted.values()))
    trees = {split: tree.below(folder) for split, folder in wanted.items()}
    if "test" in trees:
        inside = folders_of(trees["test"])
        if {"query", "gallery"} <= {role_in(folder) for folder in inside}:  # test/query, ...
            inside = [folder for folder in inside if role_in(folder) != "train"]
            nested = split_parts(trees.pop("test"), inside, guess=guess)
            left_out += [f"{wanted['test']}/{folder}" for folder in nested.left_out]
            trees |= {split: nested.trees[split] for split in ("query", "gallery")}
    return Parts(trees, left_out)


def _choose(role: str, found: list[str], tree: FileTree) -> str:
    """Return the folder with the most usual name."""

    def place(folder: str) -> int:
        name, usual = re.sub(r"[-_ ]", "", folder.lower()), NAMES[role]
        return usual.index(name) if name in usual else len(usual)

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
