"""Approximate indices of faiss: HNSW, and IVF-PQ with 8-bit features that re-order its results.

Both hold each feature in one byte a dimension, and give cosines that differ from the exact ones in
the third decimal. HNSW adds a graph of neighbours (Malkov and Yashunin, arXiv:1603.09320). IVF-PQ
adds a product code of 1/8 byte a dimension (Jegou et al., TPAMI 2011): a search looks at the codes
of the nearest lists only, and orders the best of them by the 8-bit features.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from batnet_jax.errors import UserError, one_line
from batnet_jax.retrieval import top_k
from batnet_jax.retrieval.chosen_rows import ChosenRows, RowView
from batnet_jax.retrieval.mapped_rows import read_rows
from batnet_jax.retrieval.row_file import RowFile
from batnet_jax.retrieval.scores import unit_length
from batnet_jax.runtime.extras import import_extra

LEAST_TRAINING = 10_000
"""Images that IVF-PQ needs: 39 for each of the 256 values of a code."""
WANTED_RECALL = 0.95
"""A search looks at as much of the index as finds this share of the best ten, if any does."""
_NEIGHBOURS = 32
"""Neighbours of each image in the graph of HNSW."""
_BUILD_WIDTH = 100
"""Candidates that are kept while an image is put into the graph."""
_WIDTHS = {"hnsw": (32, 64, 128, 256, 512), "ivfpq": (8, 16, 32, 64, 128, 256)}
"""Candidates of HNSW and lists of IVF-PQ that a search may look at."""
_ANEW = 10
"""Results of IVF-PQ that are ordered again, in lengths of the requested list."""
_TRAINING_BYTES = 10**9
"""Limit of the features that an index is trained with."""
_PER_LIST = 40
"""Training images for each list of IVF-PQ."""
SAMPLE = 200
"""Gallery images that are searched to measure the recall, before the index holds them: an image in
the graph of HNSW is found far more easily."""
TOP = 10


class NearIndex(RowView):
    """Features that faiss holds and searches, in place of an array [n, d].

    Attributes:
      kind: hnsw or ivfpq.
      recall: the share of the best ten that was found when the index was built; None if unknown.
    """

    def __init__(self, index: Any, kind: str, recall: float | None):
        """Keep an index of faiss."""
        super().__init__((index.ntotal, index.d), np.dtype(np.float32))
        self._index = index
        self.kind, self.recall = kind, recall

    @functools.cached_property
    def _places(self) -> np.ndarray:
        """The place of each image in the index."""
        return np.argsort(import_faiss("an index").vector_to_array(self._index.id_map))

    def __getitem__(self, rows: slice | int | np.ndarray) -> np.ndarray:
        """Return some features, of unit length but for the rounding to 8 bits."""
        wanted = np.ascontiguousarray(np.arange(len(self))[rows], np.int64)
        found = _inner(self._index).reconstruct_batch(self._places[wanted.reshape(-1)])
        return found.reshape(*wanted.shape, self.shape[1])

    def read_into(self, first: int, out: np.ndarray) -> None:
        """Read the rows from `first` on into `out`; see the base class."""
        out[:] = self[first : first + len(out)]

    def nearest(self, features: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the images most similar to each query, best first, equal scores by index.

        Args:
          features: [q, d] of queries.
          k: length of a list; all n if there are fewer.

        Returns: indices [q, k] int32 and cosines [q, k] float32. k is less where the index finds
          fewer images of some query.
        """
        query = np.ascontiguousarray(unit_length(np.asarray(features, np.float32)))
        if not np.isfinite(query).all():
            raise UserError("the features of a query are not finite: the model is damaged")
        k = min(k, len(self))
        if not k or not len(query):
            return np.zeros((len(query), k), np.int32), np.zeros((len(query), k), np.float32)
        scores, indices = self._index.search(query, k, params=_width(self._index, self.kind, k))
        if (indices < 0).any():  # too few images in the lists: look at all
            widest = _width(self._index, self.kind, len(self))
            scores, indices = self._index.search(query, k, params=widest)
        found = int((indices >= 0).sum(1).min())
        scores, indices = scores[:, :found], indices[:, :found]
        order = np.lexsort((indices, -scores), axis=1)
        rows = np.arange(len(query))[:, None]
        return indices[rows, order].astype(np.int32), scores[rows, order]


def import_faiss(user: str) -> Any:
    """Return the module `faiss`.

    Args:
      user: the argument that needs it, for the message.

    Raises: UserError if faiss is not installed.
    """
    return import_extra("faiss", name="faiss", extra="faiss", user=user)


def build(
    features: np.ndarray | RowFile, kind: str, rows_at_once: int, user: str
) -> tuple[Any, float]:
    """Build an index of faiss, and measure its recall.

    Args:
      features: [n, d], read block by block.
      kind: hnsw or ivfpq.
      rows_at_once: features of a block.
      user: see `import_faiss`.

    Returns: the index, which looks at as much as `WANTED_RECALL` needs, and the share of the best
      ten that it found for `SAMPLE` images of the gallery before it held them.
    """
    faiss = import_faiss(user)
    count, dim = features.shape
    # As many lists as make a search look at the centres and at the codes for about as long.
    lists = 1 << max(0, int(np.log2(min(2 * count**0.5, count / _PER_LIST) or 1)))
    codes = max(part for part in range(1, max(1, dim // 8) + 1) if dim % part == 0)
    # np: without faiss's polysemous training, which takes minutes and helps another kind of search.
    name = {
        "hnsw": f"HNSW{_NEIGHBOURS}_SQ8",
        "ivfpq": f"IVF{lists},PQ{codes}x8np,Refine(SQ8)",
    }[kind]
    index = faiss.index_factory(dim, name, faiss.METRIC_INNER_PRODUCT)
    if kind == "hnsw":
        index.hnsw.efConstruction = _BUILD_WIDTH
    else:
        index.k_factor = _ANEW
    most = max(LEAST_TRAINING, min(max(_PER_LIST * lists, 65536), _TRAINING_BYTES // (4 * dim)))
    places = np.linspace(0, count - 1, min(count, most)).astype(np.int64)
    index.train(unit_length(read_rows(features, np.unique(places))))
    held = np.unique(np.linspace(0, count - 1, min(SAMPLE, count // 2)).astype(np.int64))
    named = faiss.IndexIDMap(index)
    for start in range(0, count, rows_at_once):
        numbers = np.arange(start, min(start + rows_at_once, count))
        kept = ~np.isin(numbers, held)
        rows = unit_length(read_rows(features, slice(start, start + rows_at_once)))
        named.add_with_ids(np.ascontiguousarray(rows[kept]), numbers[kept])
    query = unit_length(read_rows(features, held))
    recall = _tune(named, kind, features, query, np.setdiff1d(np.arange(count), held))
    if len(held):
        named.add_with_ids(query, held)
    return named, recall


def _tune(
    index: Any,
    kind: str,
    features: np.ndarray | RowFile,
    query: np.ndarray,
    rows: np.ndarray,
) -> float:
    """Choose how much of an index a search looks at; return the resulting recall.

    Args:
      index: it holds all but the queries.
      kind: hnsw or ivfpq.
      features: of the gallery.
      query: features of images that are not in the index.
      rows: the gallery images that are.
    """
    if not len(query):
        return 1.0
    exact = top_k(query, ChosenRows(features, rows), TOP)[1]
    recall = 0.0
    for width in _WIDTHS[kind]:
        _set_width(index, kind, width)
        found = NearIndex(index, kind, None).nearest(query, TOP)[0]
        recall = _recall(query, exact, found, features)
        if recall >= WANTED_RECALL:
            break
    return recall


def _recall(
    query: np.ndarray, exact: np.ndarray, found: np.ndarray, features: np.ndarray | RowFile
) -> float:
    """Return the share of the best ten that were found; a find of an equal score counts.

    Args:
      query: [q, d] of unit length.
      exact: [q, k] the best cosines.
      found: [q, m] what the index has found.
      features: of the gallery.
    """
    shares = []
    for feature, best, items in zip(query, exact, found, strict=True):
        scores = unit_length(read_rows(features, items.astype(np.int64))) @ feature
        good = (scores >= best.min() - 1e-6).sum()  # float32 rounds
        shares.append(min(1.0, good / len(best)))
    return float(np.mean(shares))


def _set_width(index: Any, kind: str, width: int) -> None:
    """Set how much of an index a search looks at; the index's file keeps it."""
    faiss = import_faiss("an index")
    if kind == "hnsw":
        _inner(index).hnsw.efSearch = width
    else:
        faiss.extract_index_ivf(_inner(index)).nprobe = width


def _inner(index: Any) -> Any:
    """Return the index inside the one that numbers its images."""
    return import_faiss("an index").downcast_index(index.index)


def _width(index: Any, kind: str, k: int) -> Any:
    """Return faiss's parameters of a search for k images."""
    faiss = import_faiss("an index")
    if kind == "hnsw":
        return faiss.SearchParametersHNSW(efSearch=max(_inner(index).hnsw.efSearch, k))
    lists = faiss.extract_index_ivf(_inner(index))
    probes = lists.nlist if k >= index.ntotal else lists.nprobe
    inner = faiss.SearchParametersIVF(nprobe=probes)
    return faiss.IndexRefineSearchParameters(k_factor=_ANEW, base_index_params=inner)


def read(path: Path, file: BinaryIO, length: int, kind: str, recall: float | None) -> NearIndex:
    """Let faiss read an approximate index, whose checksum has been compared.

    Args:
      path: for messages.
      file: the open file.
      length: bytes of the index, from the start of the file.
      kind: hnsw or ivfpq.
      recall: measured when the index was built; None if unknown.

    Raises: UserError if faiss is missing or cannot read the index.
    """
    faiss = import_faiss(f"'{path}'")
    file.seek(0)
    left = [length]

    def read_some(count: int) -> bytes:
        part = file.read(min(count, left[0]))
        left[0] -= len(part)
        return part

    try:
        with _one_line(path):
            index = faiss.read_index(faiss.PyCallbackIOReader(read_some, 1 << 20))
            kinds = {"hnsw": faiss.IndexHNSW, "ivfpq": faiss.IndexRefine}
            fits = isinstance(index, faiss.IndexIDMap) and kind in kinds
            fits = fits and isinstance(_inner(index), kinds[kind])
            fits = fits and index.metric_type == faiss.METRIC_INNER_PRODUCT
    except MemoryError as error:
        raise UserError(f"'{path}' does not fit into memory") from error
    if not fits or index.d < 1:
        raise UserError(f"'{path}' holds no index of the kind it names: write it again")
    return NearIndex(index, kind, recall)


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Report faiss's exceptions in one line."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"'{path}' cannot be read by faiss ({one_line(error)}): write it again with"
            " --mode=search --faiss"
        ) from error
