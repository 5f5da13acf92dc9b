"""Identities and cameras as users have them: names become numbers, missing cameras stay unknown."""

import unicodedata
from typing import Any

import numpy as np

from batnet_jax.errors import UserError
from batnet_jax.retrieval.checks import as_array

JUNK_PID = -1
"""The identity that data sets give to bad detections: neither right nor wrong when found."""


def number_pids(query: Any, gallery: Any) -> tuple[Any, Any]:
    """Number the identities of query and gallery if both are strings.

    Equal strings become equal numbers, from 0 on in the order of the strings; "-1" becomes
    `JUNK_PID`. Strings are compared as they are: "1" and "01" are two identities.

    Args:
      query: [q] integers or strings.
      gallery: [g].

    Returns: the numbers, or the arguments if neither of the two holds strings.

    Raises: UserError if only one of the two holds strings, or no name is in both.
    """
    names = _as_arrays("pids", query, gallery)
    if not _are_names("pids", names):
        return query, gallery
    _require_shared(*names)
    return _number(*(array.astype(str) for array in names), junk=True)


def number_cameras(query: Any, gallery: Any) -> tuple[Any, Any]:
    """Number the cameras of query and gallery if both are strings; take missing ones.

    Args:
      query: [q] integers, strings, or None or NaN for images of an unknown camera; or None for all.
      gallery: [g].

    Returns: the numbers; None for a set whose cameras are all unknown, if the other's are, too. An
      unknown camera has a number that no camera of the other set has.

    Raises: UserError if only one of the two holds strings.
    """
    if query is None or gallery is None:
        return query, gallery
    arrays = _as_arrays("cameras", query, gallery)
    missing = [_is_missing(array) for array in arrays]
    if not any(lost.any() for lost in missing):
        if not _are_names("cameras", arrays):
            return query, gallery
        return _number(*(array.astype(str) for array in arrays), junk=False)
    if all(lost.all() for lost in missing):
        return None, None
    known = [array[~lost] for array, lost in zip(arrays, missing, strict=True)]
    found = number_cameras(*(_whole(one) for one in known))
    numbers = [np.asarray(one) if len(one) else np.empty(0, np.int64) for one in found]
    if any(one.dtype.kind not in "iu" for one in numbers):
        return query, gallery  # refused later, by name
    lowest = min([0, *(int(one.min(initial=0)) for one in numbers)])
    filled = []
    for unknown, lost, one in zip((lowest - 1, lowest - 2), missing, numbers, strict=True):
        whole = np.full(len(lost), unknown, np.int64)
        whole[~lost] = one
        filled.append(whole)
    return filled[0], filled[1]


def _as_arrays(what: str, query: Any, gallery: Any) -> list[np.ndarray]:
    sides = (f"query_{what}", query), (f"gallery_{what}", gallery)
    return [_as_array(name, given) for name, given in sides]


def _as_array(name: str, given: Any) -> np.ndarray:
    """Return an array; of Python objects if the values have several types; bytes as strings."""
    array = as_array(name, given)
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8", "surrogateescape")
    values = array.tolist() if array.ndim == 1 else []
    mixed = array.dtype.kind == "U" and not isinstance(given, np.ndarray)
    if mixed and not all(isinstance(value, str) for value in given):
        return np.array(list(given), object)
    if array.dtype.kind == "O" and values and all(isinstance(value, int) for value in values):
        return array.astype(str)  # beyond 64 bits
    return np.array(values, object) if array.dtype.kind == "O" else array


def _are_names(what: str, arrays: list[np.ndarray]) -> bool:
    """Return whether both arrays hold strings, or neither.

    Raises: UserError if one holds strings and the other numbers.
    """
    strings = [_holds_strings(array) for array in arrays]
    if any(strings) and not all(strings) and all(array.size for array in arrays):
        kinds = ["strings" if one else str(a.dtype) for one, a in zip(strings, arrays, strict=True)]
        raise UserError(
            f"query_{what} are {kinds[0]} and gallery_{what} {kinds[1]}: give both as integers, or"
            " both as strings"
        )
    return all(strings)


def _require_shared(query: np.ndarray, gallery: np.ndarray) -> None:
    """Refuse two sets of names that have no name in common.

    Raises: UserError that shows names that differ only by case or Unicode form.
    """
    sets = [set(array.tolist()) - {str(JUNK_PID)} for array in (query, gallery)]
    if not all(sets) or sets[0] & sets[1]:
        return
    alike = {_fold(name): name for name in sorted(sets[1])}
    example = next(((n, alike[_fold(n)]) for n in sorted(sets[0]) if _fold(n) in alike), None)
    few = f"{min(sets[0])!a} and {min(sets[1])!a}"
    shown = f"give both sets the same names, not such as {few}"
    if example:
        shown = f"{example[0]!a} and {example[1]!a} differ only by case or Unicode form"
    raise UserError(
        f"no query has a match: none of the {len(sets[0])} names in query_pids is among the"
        f" {len(sets[1])} in gallery_pids; {shown}"
    )


def _fold(name: str) -> str:
    folded = unicodedata.normalize("NFC", name).casefold()
    return unicodedata.normalize("NFC", folded)


def _whole(array: np.ndarray) -> Any:
    """Return numbers that stood beside NaN, and are whole, as integers; else a list."""
    whole = array.dtype.kind == "f" and bool((array == np.round(array)).all())
    return array.astype(np.int64) if whole else array.tolist()


def _holds_strings(array: np.ndarray) -> bool:
    if array.ndim != 1:
        return False
    return array.dtype.kind == "U" or (
        array.dtype.kind == "O" and all(isinstance(value, str) for value in array)
    )


def _is_missing(array: np.ndarray) -> np.ndarray:
    if array.ndim == 1 and array.dtype.kind == "f":
        return np.isnan(array)
    if array.ndim != 1 or array.dtype.kind != "O":
        return np.zeros(array.shape[:1], bool)
    return np.array([value is None or value != value for value in array], bool)


def _number(query: np.ndarray, gallery: np.ndarray, *, junk: bool) -> tuple[np.ndarray, np.ndarray]:
    """Number strings; with `junk`, "-1" is `JUNK_PID`."""
    both = np.concatenate([query, gallery])
    numbers = np.unique(both, return_inverse=True)[1].astype(np.int64)
    if junk:
        numbers[both == str(JUNK_PID)] = JUNK_PID
    return numbers[: len(query)], numbers[len(query) :]
