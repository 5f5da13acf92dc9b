"""Reads the identity and the camera of an image from its path, by usual names or by a pattern."""

import posixpath
import re
from typing import NamedTuple

from batnet_jax.data.sources.market import JUNK
from batnet_jax.errors import UserError

EXAMPLE = r"(?P<pid>\d+)-(?P<camera>\d+)"
"""A pattern for messages."""
PID = re.compile(r"(?:(?:person|pid|id)[_-]?)?(0*-1|[0-9]+)(?=[_.]|c[0-9])", re.IGNORECASE)
CAMERAS = (
    re.compile(r"(?:^|_)c([0-9]+)(?![0-9])", re.IGNORECASE),  # Market-1501: 0001_c1s1_000151_01
    re.compile(  # 0001_cam1, cam-02_7, 0001_camera_b, CamA_7
        r"(?:^|[^a-z])(?:web|ip)?[ck]am(?:era)?"
        r"(?:[-_ ]?([0-9]+)|[-_ ]([a-z])(?![a-z])|(?-i:(?<=[am])([A-Z]))(?![a-z]))",
        re.IGNORECASE,
    ),
    re.compile(r"^[0-9]+c([0-9]+)(?=[ts_.])", re.IGNORECASE),  # MARS: 0001C1T0001F001
)
LABELLED = re.compile(r"(?:0*-1|[0-9]{4,})_?c[0-9]+", re.IGNORECASE)
"""The start of a filename with pid and camera, as in the public data sets."""
CAMERA_FOLDER = re.compile(
    r"(?P<word>c|(?:web|ip)?[ck]am(?:era)?|cctv|view)[-_ ]?"
    r"(?:(?P<number>[0-9]+)|(?P<letter>[a-z]))",
    re.IGNORECASE,
)
MAX_CAMERA = 2**63 - 1

_OLD_PID = re.compile(r"(-1|[0-9]{1,9})(?=[_.])")
_OLD_CAMERA = re.compile(r"(?:^|_)c([0-9]{1,9})(?![0-9])", re.IGNORECASE)


class Labels(NamedTuple):
    """The labels of an image as text."""

    identity: str
    """A name, or a number without leading zeros."""
    camera: str | None
    """A name, or a number without leading zeros; None = unknown."""
    spelling: str
    """The identity as the path spells it."""


def compile_pattern(text: str) -> re.Pattern[str] | None:
    """Compile a user's pattern of paths; "" = None.

    Raises: UserError if the text is not a regular expression, or has neither group.
    """
    if not text:
        return None
    try:
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(
            f"data.pattern={text!r} is not a regular expression ({error}): give one such as "
            f"{EXAMPLE}"
        ) from error
    if not {"pid", "camera"} & pattern.groupindex.keys():
        raise UserError(
            f"data.pattern={text!r} names no group pid or camera: give one such as {EXAMPLE}"
        )
    return pattern


def pid_of(filename: str) -> str | None:
    """Return the identity's number at the start of a filename, as spelled; None = no number."""
    match = PID.match(filename)
    return match[1] if match else None


def camera_of(filename: str) -> str | None:
    """Return the camera that a filename names; None = no camera."""
    found = (pattern.search(filename) for pattern in CAMERAS)
    return next((plain_number(m[m.lastindex or 0].lower()) for m in found if m), None)


def camera_folder(folder: str) -> str | None:
    """Return the camera of a folder named as a camera, such as `cam01`, `c1`, `camera_b`.

    Returns: a number, or a letter; None = the folder has another name. A single letter counts only
      after `cam`, because `ca` may be a name.
    """
    match = CAMERA_FOLDER.fullmatch(folder)
    if match is None or (match["letter"] and "am" not in match["word"].lower()):
        return None
    return plain_number((match["number"] or match["letter"]).lower())


def is_surely_camera(folder: str) -> bool:
    """Return whether a camera's folder has the word camera in its name, not only c."""
    return camera_folder(folder) is not None and not folder.lower()[1:].strip("-_ ").isdecimal()


def is_number(name: str) -> bool:
    """Return whether an identity is a number, not a name; long numbers count as names."""
    return name == str(JUNK) or (name.isascii() and name.isdecimal() and len(name) < 10)


def plain_number(text: str) -> str:
    """Return decimal digits without leading zeros; other text unchanged."""
    return text.lstrip("0") or "0" if text.isascii() and text.isdecimal() else text


def plain_identity(text: str) -> str:
    """Return an identity without leading zeros, if it is a number; MARS writes -1 as 00-1."""
    if text.endswith(str(JUNK)) and not text.removesuffix(str(JUNK)).strip("0"):
        return str(JUNK)
    return str(int(text)) if is_number(text) else text


def camera_numbers(cameras: set[str]) -> dict[str, int]:
    """Return the number of each camera: its own, or its place among the sorted names, from 1."""
    if all(c.isascii() and c.isdecimal() and len(c) < 20 and int(c) <= MAX_CAMERA for c in cameras):
        return {camera: int(camera) for camera in cameras}
    return {camera: place for place, camera in enumerate(sorted(cameras), 1)}


def earlier_labels(name: str) -> tuple[str, str | None] | None:
    """Return identity and camera as the first version read them; None = it refused the name.

    A data set whose labels are still the same keeps the name of its prepared copy.
    """
    base = posixpath.basename(name)
    match, camera = _OLD_PID.match(base), _OLD_CAMERA.search(base)
    if "/" not in name and match is None:
        return None
    identity = name.split("/")[0] if "/" in name else match[1]  # type: ignore[index]
    return plain_identity(identity), str(int(camera[1])) if camera else None
