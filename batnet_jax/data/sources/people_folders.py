"""Finds the folder whose sub-folders or images are people, at a user's path or below it."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from batnet_jax.data.files.find_dataset import list_candidates
from batnet_jax.data.files.tree import (
    IMAGES,
    FileTree,
    is_archive,
    is_hidden,
    is_image_name,
    open_tree,
)
from batnet_jax.data.sources.file_labels import camera_folder, camera_of, pid_of
from batnet_jax.data.sources.layout import CAMERA, PERSON, SPLIT, AmbiguousLayoutError, Levels
from batnet_jax.data.sources.split_folders import are_like_splits, guess_role, has_splits
from batnet_jax.runtime.paths import is_folder

MAX_DEPTH = 20
"""Levels of nested folders searched for the folders of people."""
ADVICE = (
    "give each of at least two people a folder, begin names with the person's number and _, as in "
    "0001_c1_7.jpg, set data.pattern, or name another place"
)
MAX_NAMES = 1000
"""Files of a folder looked at in the search for an image."""


def find_people(path: Path) -> FileTree | None:
    """Find a tree of people, or of labelled images, at `path` or nested below it.

    The search reads as few folders as possible, because `path` may be the root of a disk.

    Args:
      path: the user's folder or archive; need not exist.

    Returns: None if nothing is found, or if folders are named as splits.
    """
    if not is_folder(path):
        return _people_in_archive(path) if is_archive(path) else None
    for _ in range(MAX_DEPTH):
        candidates = list_candidates(path)
        folders = [p for p in candidates if os.path.isdir(p)]
        below = [
            [p.name for p in list_candidates(folder) if os.path.isdir(p)] for folder in folders
        ]
        if any(has_splits(f) for f in ([p.name for p in folders], *below)):
            return None
        found = list(itertools.islice((p for p in folders if first_image(p)), 2))
        if len(found) > 1:
            return open_tree(path)
        own = _own_images(path)
        if not found and _are_labelled(own):
            return open_tree(path)
        if not found and not own:
            archives = [p for p in candidates if is_archive(p)]
            return _people_in_archive(archives[0]) if len(archives) == 1 else None
        if len(found) != 1 or own:
            return None
        path = found[0]
    return None


def find_described(path: Path, levels: Levels | None, pattern: re.Pattern[str]) -> FileTree | None:
    """Find the tree of all images at `path`, whose folders or names the user has described.

    A single folder at the top, as in archives, is skipped if the description fits below it.

    Args:
      path: the user's folder or archive; need not exist.
      levels: the layout that the user gave, without splits; None = the pattern alone counts.
      pattern: the user's pattern of paths, which the images should match.

    Returns: None if there are no images.
    """
    if is_folder(path) and first_image(path) is None:
        archives = [p for p in list_candidates(path) if is_archive(p)]
        path = archives[0] if len(archives) == 1 else path
    if not (is_folder(path) or is_archive(path)):
        return None
    tree = open_tree(path)
    passed: list[FileTree] = []
    while names := tree.images():
        passed.append(tree)
        tops = {name.split("/")[0] for name in names}
        depth = min(name.count("/") for name in names)
        if len(tops) > 1 or depth <= len(levels or ()) or depth == 0:
            break
        (top,) = tops
        if levels and levels[0] == CAMERA and camera_folder(top):
            break
        tree = tree.below(top)
    fitting = (t for t in reversed(passed) if all(map(pattern.search, t.images())))
    return next(fitting, passed[-1] if passed else None)


def _people_in_archive(path: Path) -> FileTree | None:
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
    if any(has_splits(found) for found in (upper, *second.values())):
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


def _are_labelled(names: Sequence[str]) -> bool:
    """Return whether filenames name people: at least two people of two images or more."""
    if any("/" in name for name in names):
        return False
    pids = Counter(pid_of(name) for name in names)
    several = sum(number > 1 for number in pids.values()) > 1
    return None not in pids and (several or (len(pids) > 1 and all(map(camera_of, names))))


def first_image(folder: Path) -> str | None:
    """Return the path of an image among the first files below a folder; None = no image."""
    return next(_some_images(folder), None)


def _some_images(folder: Path) -> Iterator[str]:
    """Yield the paths of the images among the first files below a folder."""
    try:
        walk = ((os.path.relpath(at, folder), files) for at, _, files in os.walk(folder))
        names = (
            os.path.join(at, name) for at, files in walk if not is_hidden(at) for name in files
        )
        for name in itertools.islice(names, MAX_NAMES):
            if is_image_name(name) and not is_hidden(os.path.basename(name)):
                yield os.path.normpath(name)
    except (OSError, RecursionError):  # no permission, or too many nested folders
        return


def refuse_like_splits(tree: FileTree) -> None:
    """Refuse folders that may be people or splits, by words in their names.

    Raises: AmbiguousLayoutError.
    """
    names = tree.images()
    folders = sorted({name.split("/")[0] for name in names if "/" in name})
    if not are_like_splits(folders):
        return
    few = [folder for folder in folders if guess_role(folder)][:2]
    deep = any(name.count("/") > 1 for name in names)
    raise AmbiguousLayoutError(
        f"'{tree.location}' holds '{few[0]}' and '{few[1]}', which may be people or splits: set "
        f"data.layout={PERSON}, or data.layout={SPLIT}{f'/{PERSON}' if deep else ''}"
    )


def why_not_found(path: Path) -> str:
    """Describe what a user's folder or archive holds instead of people."""
    if not (is_folder(path) or is_archive(path)):
        return "it is not a folder, .zip or .tar: name another place"
    names = list(_some_images(path)) if is_folder(path) else open_tree(path).images()
    tops = sorted({name.split("/")[0] for name in names if "/" in name})
    flat = [name for name in names if "/" not in name]
    if not names:
        archives = [p.name for p in list_candidates(path)] if is_folder(path) else []
        beside = f", but archives, such as '{archives[0]}': name one of them" if archives else ""
        return f"it holds no images ({IMAGES}){beside or ': add some'}, or name another place"
    if flat and tops:
        return f"'{flat[0]}' lies beside the folder '{tops[0]}': {ADVICE}"
    if flat:
        return f"names such as '{flat[0]}' do not tell people: {ADVICE}"
    if len(tops) == 1:
        return f"only the folder '{tops[0]}' holds images: {ADVICE}"
    return f"'{names[0]}' is an image: {ADVICE}"
