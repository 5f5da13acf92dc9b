"""`names.json` in a workdir: the names of the people that a run has seen, by data set.

`labels.json` names only the identities of training. Searches show the names of the others, too.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from batnet_jax.runtime.paths import exists
from batnet_jax.runtime.read_files import read_json
from batnet_jax.workdir.gcs import reached, write_whole
from batnet_jax.workdir.results import tell_left_out
from batnet_jax.workdir.run_folder import LABELS

NAMES = "names.json"


def keep_names(workdir: Path, dataset: str, names: Sequence[str]) -> None:
    """Write the names of a data set's identities beside the run; keep the names of other data sets.

    Args:
      workdir: of the run.
      dataset: its name.
      names: indexed by pid; without names no file is written.

    Raises: OSError if the file cannot be written.
    """
    if not names:
        return
    kept = _read(workdir / NAMES)
    kept = kept if isinstance(kept, dict) else None
    if kept is None and exists(workdir / NAMES):
        tell_left_out([f"'{workdir / NAMES}' is damaged: evaluate other data sets again"])
    found = kept or {}
    if found.get(dataset) != list(names):
        with reached(workdir):
            write_whole(
                workdir / NAMES, json.dumps(found | {dataset: list(names)}, indent=1) + "\n"
            )


def read_names(workdir: Path) -> set[str]:
    """Return the names of all people that a run has seen; none if the run knows no names."""
    kept, labels = _read(workdir / NAMES), _read(workdir / LABELS)
    names: list = []
    if isinstance(kept, dict):
        names += [name for own in kept.values() if isinstance(own, list) for name in own]
    if isinstance(labels, list):
        names += [label.get("name") for label in labels if isinstance(label, dict)]
    return {name for name in names if isinstance(name, str) and name}


def _read(path: Path) -> object:
    """Return the contents of a JSON file; None if it is missing or damaged."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def name_of(path: str, names: set[str]) -> str | None:
    """Return the person whose folder holds an image: the innermost one with a known name."""
    folder = os.path.dirname(path)
    while folder:
        folder, part = os.path.split(folder)
        if part in names:
            return part
        if not part:
            return None
    return None
