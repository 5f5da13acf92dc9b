"""Several galleries in one search: their images stand one after the other, as in one gallery."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from batnet_jax.errors import UserError
from batnet_jax.inference.columns import join_columns
from batnet_jax.inference.feature_file import IN_MEMORY, FeatureFile
from batnet_jax.inference.lance_gallery import is_lance
from batnet_jax.retrieval.chosen_rows import JoinedRows

MAX_GALLERIES = 1000


class Places(NamedTuple):
    """Where the images of several galleries come from."""

    names: tuple[str, ...]
    """Of the galleries."""
    starts: np.ndarray
    """[galleries + 1] int64, the first image of each, and the number of all."""

    def find(self, i: int) -> tuple[str, int]:
        """Return the gallery of image i, and the image's row in it."""
        number = int(np.searchsorted(self.starts, i, side="right")) - 1
        return self.names[number], int(i - self.starts[number])


def split_paths(text: str) -> list[Path]:
    """Return the paths in a text with commas between them; a path may have commas, too.

    Args:
      text: of one path, if it exists; else of several.

    Raises: UserError if no division gives paths that all exist.
    """
    if "," not in text or os.path.lexists(text) or is_lance(text):
        return [Path(text)]
    words = text.split(",")[: MAX_GALLERIES + 1]
    if len(words) > MAX_GALLERIES:
        raise UserError(f"more than {MAX_GALLERIES} galleries are named: join some")
    # ways[k]: the paths of the first k words; the longest last path counts
    ways: list[list[Path] | None] = [[]] + [None] * len(words)
    for end in range(1, len(words) + 1):
        for start in range(max(0, end - 20), end):  # a name with more commas is not looked for
            path = Path(",".join(words[start:end]))
            before = ways[start]
            if before is not None and str(path) != "." and os.path.lexists(path):
                ways[end] = [*before, path]
                break
    found = ways[-1]
    if found is None:
        known = max(k for k, way in enumerate(ways) if way is not None)
        raise UserError(f"'{words[known]}' of '{text}' does not exist: name galleries, as in A,B")
    return found


def join_galleries(files: Sequence[FeatureFile], names: Sequence[str]) -> FeatureFile:
    """Return several galleries as one.

    The values of a column that a gallery lacks are missing, see `join_columns`. An image without a
    path is named by its row.

    Args:
      files: the galleries, of one model.
      names: theirs.

    Raises: UserError if their features have different lengths, or are of different models.
    """
    dims = {file.features.shape[1]: name for file, name in zip(files, names, strict=True)}
    if len(dims) > 1:
        (one, first), (other, second) = list(dims.items())[:2]
        raise UserError(
            f"'{first}' holds features of {one} dimensions, and '{second}' of {other}: embed both"
            " with one model"
        )
    prints = {f.fingerprint: n for f, n in zip(files, names, strict=True) if f.fingerprint}
    if len(prints) > 1:
        first, second = list(prints.values())[:2]
        raise UserError(f"'{first}' and '{second}' were embedded by different models: use one")
    counts = [len(file.features) for file in files]
    starts = np.cumsum([0, *counts])
    parts = []
    for file, start, count in zip(files, starts.tolist(), counts, strict=False):
        rows = np.full(starts[-1], -1)
        rows[start : start + count] = np.arange(count)
        parts.append((file.columns, rows))
    paths = None
    if any(file.paths is not None for file in files):
        paths = [
            path
            for file, count in zip(files, counts, strict=True)
            for path in (file.paths or [f"row {i}" for i in range(count)])
        ]
    all_marked = all(file.fingerprint for file in files)
    features = JoinedRows([file.features for file in files])
    return FeatureFile(
        features[:] if features.nbytes <= IN_MEMORY else features,
        paths,
        next(iter(prints)) if all_marked else None,
        join_columns(parts, int(starts[-1])),
    )


def places_of(files: Sequence[FeatureFile], names: Sequence[str]) -> Places:
    """Return where the images of joined galleries come from."""
    return Places(tuple(names), np.cumsum([0, *(len(file.features) for file in files)]))
