"""Gallery images that are a query's own file: both paths lead to the same file."""

import functools
import os
from collections.abc import Callable, Sequence

from batnet_jax.inference.lance_gallery import LancePaths
from batnet_jax.retrieval import ItemLists, check_left_out


def find_own_files(queries: Sequence[str], gallery: Sequence[str] | None) -> ItemLists | None:
    """Return the gallery items whose path leads to the query's file, for each query.

    Args:
      queries: paths.
      gallery: paths; None if the gallery has none.

    Returns: None if the gallery has no paths.
    """
    if gallery is None or not queries:
        return None
    if isinstance(gallery, LancePaths):
        return gallery.rows.find_own(queries)

    @functools.cache  # many files lie in few folders
    def resolve(folder: str) -> str:
        return os.path.realpath(folder)

    ids = [[_resolve(path, resolve) for path in paths] for paths in (queries, gallery)]
    return check_left_out(len(queries), len(gallery), query_ids=ids[0], gallery_ids=ids[1])


def _resolve(path: str, resolve_folder: Callable[[str], str]) -> str:
    """Return the absolute path of a file, without links; files that do not exist have one too."""
    folder, name = os.path.split(path)
    whole = os.path.join(resolve_folder(folder or "."), name)
    return os.path.realpath(whole) if name in ("", ".", "..") or os.path.islink(whole) else whole
