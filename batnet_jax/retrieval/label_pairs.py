"""Identities and cameras as users have them: names become numbers, missing cameras stay unknown."""

from typing import Any

import numpy as np

JUNK_PID = -1
"""The identity that data sets give to bad detections: neither right nor wrong when found."""


def number_pids(query: Any, gallery: Any) -> tuple[Any, Any]:
    """Number the identities of query and gallery if both are strings.

    Equal strings become equal numbers, from 0 on in the order of the strings; "-1" becomes
    `JUNK_PID`. Strings are compared as they are: "1" and "01" are two identities.

    Args:
      query: [q] integers or strings.
      gallery: [g].

    Returns: the numbers, or the arguments if one of the two does not hold strings.
    """
    names = [_as_array(given) for given in (query, gallery)]
    if not all(_holds_strings(array) for array in names):
        return query, gallery
    return _number(*(array.astype(str) for array in names), junk=True)


def number_cameras(query: Any, gallery: Any) -> tuple[Any, Any]:
    """Number the cameras of query and gallery if both are strings; take missing ones.

    Args:
      query: [q] integers, strings, or None for images of an unknown camera; or None for all.
      gallery: [g].

    Returns: the numbers; None for a set whose cameras are all unknown, if the other's are, too. An
      unknown camera has a number that no camera of the other set has.
    """
    if query is None or gallery is None:
        return query, gallery
    arrays = [_as_array(given) for given in (query, gallery)]
    missing = [_is_missing(array) for array in arrays]
    if not any(lost.any() for lost in missing):
        if not all(_holds_strings(array) for array in arrays):
            return query, gallery
        return _number(*(array.astype(str) for array in arrays), junk=False)
    if all(lost.all() for lost in missing):
        return None, None
    known = [array[~lost] for array, lost in zip(arrays, missing, strict=True)]
    found = number_cameras(*(one.tolist() for one in known))
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


def _as_array(given: Any) -> np.ndarray:
    """Return an array; of Python objects if the values have several types."""
    array = np.asarray(given)
    values = array.tolist() if array.ndim == 1 else []
    mixed = array.dtype.kind == "U" and not isinstance(given, np.ndarray)
    if mixed and not all(isinstance(value, str) for value in given):
        return np.array(list(given), object)
    return np.array(values, object) if array.dtype.kind == "O" else array


def _holds_strings(array: np.ndarray) -> bool:
    if array.ndim != 1:
        return False
    return array.dtype.kind == "U" or (
        array.dtype.kind == "O" and all(isinstance(value, str) for value in array)
    )


def _is_missing(array: np.ndarray) -> np.ndarray:
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
