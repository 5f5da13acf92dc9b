"""The columns of hits: what the gallery keeps about the images that a search finds."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from batnet_jax.inference.feature_file import FeatureFile
from batnet_jax.inference.lance_gallery import LanceRows

_PREFIX = "columns."
_OWN = frozenset(
    ("query", "pooled", "accepted", "best", "rank", "score", "index", "path", "name", "gallery",
     "row", "verdict", "columns")
)  # fmt: skip
"""Names of the other values of a hit and of its list."""


def take_columns(gallery: FeatureFile, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of some gallery images, by name, [k] each; empty without columns.

    Args:
      gallery: an open one.
      numbers: [k] images, as a search returns them.

    Raises: UserError if the gallery is a database that cannot be read.
    """
    if isinstance(gallery.features, LanceRows):
        return gallery.features.columns(numbers)
    return {name: values[numbers] for name, values in gallery.columns.items()}


def plain_rows(columns: Mapping[str, np.ndarray], count: int) -> list[dict[str, Any]]:
    """Return columns as one dictionary for each image, of values that JSON can hold.

    A number that is not finite, such as a missing one, is None. A float has the fewest digits that
    identify it among the floats of its type. Characters that UTF-8 cannot hold become `?`.

    Args:
      columns: by name, [count] booleans, numbers or strings.
      count: images.
    """
    values = {name: _plain(column) for name, column in columns.items()}
    return [{name: own[i] for name, own in values.items()} for i in range(count)]


def _plain(column: np.ndarray) -> list[Any]:
    """Return the values of a column; see `plain_rows`."""
    if column.dtype.kind == "f":
        numbers = [float(str(value)) for value in column]  # float32's 0.1 stays 0.1
        return [number if np.isfinite(number) else None for number in numbers]
    if column.dtype.kind == "U":
        return [text.encode("utf-8", "replace").decode() for text in column.tolist()]
    return column.tolist()


def table_name(column: str) -> str:
    """Return the name of a column in a table of hits: `columns.rank` where `rank` is taken."""
    is_taken = column in _OWN or column.startswith(_PREFIX)
    return f"{_PREFIX}{column}" if is_taken else column
