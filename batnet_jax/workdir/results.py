"""The results of evaluations in a workdir: `eval/step_<N>.json` and the files of further tests."""

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from batnet_jax.errors import UserError, printable
from batnet_jax.runtime.paths import exists
from batnet_jax.runtime.read_files import is_number, read_json, reason

EVAL = "eval"
COUNTS = ("step", "num_query", "num_valid_query", "num_gallery")
PROTOCOL = ("dataset", "split", "ap", "same_camera", "leave_out_own")
"""Names of the values that are equal in all results of one test."""
_NAME = re.compile(r"step_([0-9]{1,18})(_.*)?\.json")


def list_results(workdir: Path) -> list[tuple[int, Path]]:
    """Return step and path of each result of a workdir, the latest first.

    Raises: OSError if the folder cannot be read.
    """
    try:
        paths = list((workdir / EVAL).iterdir())  # glob would not tell of a folder kept from us
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [(_NAME.fullmatch(path.name), path) for path in paths]
    files = [(int(match[1]), path) for match, path in found if match]
    return sorted(files, key=lambda own: (-own[0], len(own[1].name), own[1].name))


def read_result(path: Path, needs: Sequence[str] = ()) -> dict[str, Any]:
    """Read a result. A field that an older version did not write gets the value that it used.

    Args:
      path: of the file, whose name contains the step.
      needs: names that the result must have besides `mAP`, `cmc` and `ap`.

    Raises: OSError if the file cannot be read; UserError if it is damaged.
    """
    try:
        result = read_json(path)
        named = _NAME.fullmatch(path.name)
        step = int(named[1]) if named else result["step"]
        result = {"step": step, "split": "test", "same_camera": "remove"} | result
        result.setdefault("leave_out_own", False)
        shares = [result["mAP"], result.get("mINP", 0), result["cmc"]["1"], *result["cmc"].values()]
        texts = [result["ap"], *(result[name] for name in PROTOCOL[:-1] if name in result)]
        if not (
            all(name in result for name in needs)
            and all(isinstance(text, str) and printable(text) == text for text in texts)
            and isinstance(result["leave_out_own"], bool)
            and all(type(result[name]) is int for name in COUNTS if name in result)
            and all(is_number(share) and 0 <= share <= 1 for share in shares)
            and result["step"] == step
        ):
            raise ValueError("other values")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is damaged: evaluate the step again") from error
    return result


def is_whole(path: Path) -> bool:
    """Return whether a result exists and can be read."""
    try:
        return exists(path) and bool(read_result(path))
    except (OSError, UserError):
        return False


def read_whole_results(
    workdir: Path, *, step: int | None = None
) -> tuple[list[tuple[Path, dict[str, Any]]], list[str]]:
    """Read the results of a workdir that can be read.

    Args:
      workdir: of the run.
      step: of the results; None for all steps.

    Returns: path and contents of each, the latest first, with their data set; and a message for
      each of the others.
    """
    found, messages = [], []
    try:
        files = list_results(workdir)
    except OSError as error:
        return [], [f"'{workdir / EVAL}' cannot be read ({reason(error)})"]
    for number, path in files:
        if step in (None, number):
            try:
                found.append((path, read_result(path, ("dataset",))))
            except OSError as error:
                messages.append(f"'{path}' cannot be read ({reason(error)})")
            except UserError as error:
                messages.append(str(error))
    return found, messages


def last_mean_ap(workdir: Path, step: int) -> float | None:
    """Return the mAP of a run's last evaluation up to a step; None if none can be read."""
    found = (result for _, result in read_whole_results(workdir)[0] if result["step"] <= step)
    return next((result["mAP"] for result in found), None)


def tell_left_out(messages: Iterable[str]) -> None:
    """Print to stderr which results could not be read."""
    for message in messages:
        print(f"warning: left out: {printable(message)}", file=sys.stderr)
