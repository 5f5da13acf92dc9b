"""The figures of each query: `eval/step_<N>.npz`, which comparisons of runs read.

Arrays, for q queries in the order of the test:

    pids                [q] int64
    first_rank          [q] int64, 1-based; 0 for a query without a match
    average_precision   [q] float64; nan for a query without a match
    header              a string of JSON: `version` of the format, `dataset`, `split`, `step`, `ap`,
                        `same_camera`, `multi_query`, and `sets` as `describe_sets` returns it;
                        `names` of the pids, if the user has named them; `leave_out_own`, if the
                        queries' own images are left out
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from batnet_jax.data.run_data import RetrievalTest, describe_sets
from batnet_jax.errors import UserError, one_line
from batnet_jax.runtime.npz import read_npz

VERSION = 1
_MAX_BYTES = 10**9
"""The most that all arrays may take: 40 million queries. A damaged file may declare more."""
_SAME_IN_RESULT = ("dataset", "split", "step", "ap", "same_camera")
"""Names that the header shares with `eval/step_<N>.json`."""


class QueryFigures(NamedTuple):
    """The contents of a file of this module."""

    header: dict[str, Any]
    pids: np.ndarray
    first_rank: np.ndarray
    average_precision: np.ndarray


def make_query_figures(
    result: Mapping[str, Any],
    per_query: Mapping[str, Any],
    test: RetrievalTest,
    multi_query: str,
) -> QueryFigures:
    """Collect the figures of each query of an evaluation.

    Args:
      result: the contents of `eval/step_<N>.json`.
      per_query: see `retrieval.evaluate`.
      test: the test that was evaluated.
      multi_query: `config.eval.multi_query`.
    """
    header = {"version": VERSION} | {name: result[name] for name in _SAME_IN_RESULT}
    if result.get("leave_out_own"):
        header["leave_out_own"] = True
    if test.names:
        pids = np.unique(test.query.pids).tolist()
        header["names"] = {str(pid): test.name_of(pid) for pid in pids}
    header |= {"multi_query": multi_query, "sets": describe_sets(test)}
    return QueryFigures(
        header,
        np.asarray(test.query.pids, np.int64),
        np.asarray(per_query["first_rank"], np.int64),
        np.asarray(per_query["average_precision"], np.float64),  # None becomes nan
    )


def to_bytes(figures: QueryFigures) -> bytes:
    """Return the contents of the file, the same bytes for the same figures."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        header=np.array(json.dumps(figures.header)),
        pids=figures.pids,
        first_rank=figures.first_rank,
        average_precision=figures.average_precision,
    )
    return buffer.getvalue()


def read_query_figures(path: Path, result: Mapping[str, Any]) -> QueryFigures:
    """Read the file of an evaluation.

    Args:
      path: the file.
      result: the contents of the .json beside the file.

    Raises: FileNotFoundError if the file does not exist; UserError if the file is damaged, of a
      newer version, or of another evaluation than the result.
    """
    try:
        figures = _read(path)
        _check(figures)
    except (FileNotFoundError, UserError):
        raise
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror or one_line(error)})") from error
    except Exception as error:  # NumPy and zipfile raise many types
        raise UserError(f"'{path}' is damaged: evaluate the step again") from error
    if not _is_of(figures, result):
        raise UserError(
            f"'{path}' is of another evaluation than '{path.with_suffix('.json').name}': evaluate"
            " the step again"
        )
    return figures


def _read(path: Path) -> QueryFigures:
    arrays = read_npz(path, QueryFigures._fields, most=_MAX_BYTES)
    header = json.loads(str(arrays["header"]))
    if header["version"] > VERSION:
        raise UserError(f"'{path}' was written by a newer version: update batnet_jax")
    return QueryFigures(header, *(arrays[name] for name in QueryFigures._fields[1:]))


def _check(figures: QueryFigures) -> None:
    """Check the structure of a file's contents.

    Raises: ValueError, KeyError, TypeError or AttributeError for other contents.
    """
    header, pids, first_rank, precision = figures
    if header["version"] != VERSION or not isinstance(header["multi_query"], str):
        raise ValueError("another header")
    for own in (header["sets"][name] for name in ("query", "gallery", *header["sets"])):
        if list(map(type, (own["images"], own["labels"], own["content"]))) != [int, str, str]:
            raise ValueError("another description of the image sets")
    kinds = (pids.dtype.kind, first_rank.dtype.kind, precision.dtype.kind)
    if kinds != ("i", "i", "f") or not pids.shape == first_rank.shape == precision.shape:
        raise ValueError("arrays of other types or lengths")
    valid = first_rank > 0
    if pids.ndim != 1 or not valid.any() or (first_rank < 0).any():
        raise ValueError("ranks that cannot be")
    if not ((precision[valid] > 0) & (precision[valid] <= 1)).all():
        raise ValueError("precisions that cannot be")


def _is_of(figures: QueryFigures, result: Mapping[str, Any]) -> bool:
    """Return whether figures belong to a result."""
    valid = figures.first_rank > 0
    mean_ap = float(figures.average_precision[valid].mean())
    rank1 = float((figures.first_rank[valid] == 1).mean())
    return (
        all(figures.header.get(name) == result[name] for name in _SAME_IN_RESULT)
        and bool(figures.header.get("leave_out_own")) == bool(result.get("leave_out_own"))
        and (len(valid), int(valid.sum())) == (result["num_query"], result["num_valid_query"])
        # NumPy may add in another order on another machine.
        and abs(mean_ap - result["mAP"]) < 1e-9
        and abs(rank1 - result["cmc"]["1"]) < 1e-9
    )
