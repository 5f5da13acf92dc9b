"""Files of ranked lists that `search` writes: JSON, JSON lines, CSV."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batnet_jax.errors import UserError
from batnet_jax.inference.hit_columns import table_name

SUFFIXES = (".json", ".jsonl", ".csv")


def check_suffix(path: Path) -> None:
    """Raise UserError for a file whose suffix names no format of this module."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"--output={path} does not say what to write: lists are written as"
            f" {', '.join(SUFFIXES)}"
        )


def to_bytes(path: Path, source: Mapping[str, Any], lists: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the contents of a file of ranked lists in UTF-8; bytes of other names are kept.

    `.json`: one object, of the source and `results`. `.jsonl`: a line for each query, an object
    with the source. `.csv`: a row for each hit, with its query; a query without hits has one row.
    In `.csv` columns of the gallery follow, under their own names; see `table_name`.

    Args:
      path: its suffix chooses the format; see `check_suffix`.
      source: the gallery and the model, for the file.
      lists: for each query `query`, `hits` and further values; see `modes.search`.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        return (json.dumps({**source, "results": lists}, indent=1) + "\n").encode()
    if suffix == ".jsonl":
        return "".join(json.dumps({**one, **source}) + "\n" for one in lists).encode()
    rows = [
        {**{name: value for name, value in one.items() if name != "hits"}, **_flat(hit)}
        for one in lists
        for hit in one["hits"] or [{}]
    ]
    kept = dict.fromkeys(
        table_name(name) for one in lists for hit in one["hits"] for name in hit.get("columns", {})
    )
    first = ["query", "rank", "score", "index", "path"]
    own = [name for row in rows for name in row if name not in kept]
    names = dict.fromkeys([*first, *own, *kept])
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _flat(hit: Mapping[str, Any]) -> dict[str, Any]:
    """Return a hit with its columns as values beside its others."""
    columns = {table_name(name): value for name, value in hit.get("columns", {}).items()}
    return {name: value for name, value in hit.items() if name != "columns"} | columns
