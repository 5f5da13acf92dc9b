"""Finds the parts of a user's data set: folders of splits, or one folder of people."""

import os
import re
from functools import partial
from pathlib import Path

from batnet_jax.data.builder import Reading, ReIDBuilder
from batnet_jax.data.files.tree import IMAGES, FileTree
from batnet_jax.data.sources.file_labels import compile_pattern
from batnet_jax.data.sources.layout import SPLIT, Levels, parse_layout
from batnet_jax.data.sources.people_folders import (
    find_described,
    find_people,
    refuse_like_splits,
    why_not_found,
)
from batnet_jax.data.sources.split_folders import (
    EXACT,
    Parts,
    folders_of,
    has_splits,
    markers,
    split_parts,
)
from batnet_jax.errors import ArgumentError, UserError

MAX_SHOWN = 5
"""Names of folders in a message."""
PEOPLE = "name one; or, if these folders are people, set data.layout=person"


def find_parts(builder: type[ReIDBuilder], manual_dir: str | Path, reading: Reading) -> Parts:
    """Return the trees to read.

    Args:
      builder: searches and names the data set.
      manual_dir: the user's folder or archive; need not exist.
      reading: the user's settings for folders and names.

    Raises: UserError if no people are found, or folders may be people or splits.
    """
    levels, path = parse_layout(reading.layout), Path(manual_dir)
    pattern = compile_pattern(reading.pattern)
    if levels is None or SPLIT not in levels:
        people = _find_tree(path, levels, pattern)
        if people is not None:
            if levels is None and pattern is None:
                refuse_like_splits(people)
            return Parts({"all": people}, [])
    guess = levels is not None
    found = markers(path, guess=guess)
    try:
        tree = builder.find(path, found or EXACT, partial(_lacks_splits, guess=guess), PEOPLE)
    except ArgumentError:
        if found or not os.path.lexists(path):
            raise
        why = why_not_found(path)
        if guess:
            why = f"no folders there are named as splits, such as train and test; {why}"
        raise ArgumentError("manual_dir", f"{builder.TITLE} not found in '{path}': {why}") from None
    parts = split_parts(tree, folders_of(tree), guess=guess)
    for split, part in parts.trees.items():
        if not part.images():
            others = ", ".join(f"{name}/" for name in folders_of(tree)[:MAX_SHOWN])
            raise UserError(
                f"'{part.location}' is missing or holds no images, and the folders there "
                f"({others}) look like splits: add the images of {split} ({IMAGES}), or name "
                f"their folder {split}; or, if the folders are people, set data.layout=person"
            )
    return parts


def _find_tree(
    path: Path, levels: Levels | None, pattern: re.Pattern[str] | None
) -> FileTree | None:
    """Return the tree of a data set without splits; None = not found."""
    if levels is not None:
        return find_described(path, levels, pattern or re.compile(""))
    if pattern is None or "pid" not in pattern.groupindex:
        return find_people(path)
    return None if markers(path) else find_described(path, None, pattern)


def _lacks_splits(tree: FileTree, *, guess: bool) -> str:
    """Return the reason to reject a tree."""
    whole = has_splits(folders_of(tree), guess=guess)
    return "" if whole else f"'{tree.location}' has no other split"
