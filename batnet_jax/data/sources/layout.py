"""The meaning of the levels of a user's folders: people, cameras, or nothing.

A layout names the levels from the top, as in `split/camera/person`. Without a layout the levels are
found from the names of the folders and files. Where two readings are possible, neither is taken.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from batnet_jax.data.sources.file_labels import (
    LABELLED,
    Labels,
    camera_folder,
    camera_of,
    is_surely_camera,
    pid_of,
    plain_identity,
    plain_number,
)
from batnet_jax.errors import UserError

SPLIT, PERSON, CAMERA, GROUP, ANY = "split", "person", "camera", "group", "*"
WORDS = {
    SPLIT: "train, query, gallery or test; only the first",
    PERSON: "an identity",
    CAMERA: "a camera",
    GROUP: "an upper part of the identity's name",
    ANY: "nothing",
}
NEUTRAL = re.compile(
    r"(?:(?:day|date|night|session|part|set|subset|batch|seq|sequence|video|clip|tracklet|track|scene"
    r"|scen|location|place|site|run|take|images?|imgs?|frames?|crops?|data|jpe?g|png|all)"
    r"[-_ ]?[0-9]*)|[12][0-9]{3}[-_.]?[01][0-9][-_.]?[0-3][0-9]",
    re.IGNORECASE,
)
"""Names of folders that stand for neither people nor cameras: session 2, day1, 2021-03-04."""
Levels = tuple[str, ...]


class AmbiguousLayoutError(UserError):
    """Folders that can be read in several ways."""


class _Path(NamedTuple):
    folders: tuple[str, ...]
    base: str


def parse_layout(text: str) -> Levels | None:
    """Return the levels of a layout such as "split/person"; "" = None, to be found.

    Raises: UserError that lists the words.
    """
    if not text:
        return None
    levels = tuple(word.strip().lower() for word in text.strip("/").split("/"))
    known = all(word in WORDS for word in levels)
    once = all(levels.count(word) < 2 for word in (SPLIT, PERSON, CAMERA))
    named = GROUP not in levels or PERSON in levels[levels.index(GROUP) :]
    if not (known and once and named and SPLIT not in levels[1:]):
        words = "; ".join(f"{word} = {meaning}" for word, meaning in WORDS.items())
        raise UserError(
            f"data.layout={text!r} is not a layout: name the levels of folders from the top, as in "
            f"{SPLIT}/{CAMERA}/{PERSON} ({words})"
        )
    return levels


def read_labels(
    name: str, levels: Levels, pattern: re.Pattern[str] | None, explicit: bool
) -> Labels:
    """Return the labels of an image.

    Args:
      name: the path below the split's folder.
      levels: the folders' levels, without `split`. Deeper folders are ignored. An image above the
        level of people has its identity and its camera in its filename.
      pattern: the user's pattern of paths; its groups come first. Without the group `camera`
        cameras are unknown.
      explicit: whether the user gave the levels.

    Raises: UserError, with a message to follow the path, if no identity is found, if the pattern
      does not match, or if folder and filename tell different cameras.
    """
    *folders, base = name.split("/")
    named = dict(zip(levels, folders, strict=False))
    match = pattern.search(name) if pattern else None
    if pattern and match is None:
        raise UserError(f"does not match data.pattern={pattern.pattern!r}: change it or the name")
    given = match.groupdict() if match else {}
    above = PERSON in levels and PERSON not in named and "pid" not in given
    if above and not LABELLED.match(base):
        raise UserError(
            f"lies above the folders of people (data.layout={'/'.join(levels)}), and its name "
            "does not begin with an identity and a camera, as in 0001_c1: move or remove it"
        )
    spelling = given.get("pid") or named.get(PERSON) or pid_of(base)
    if not spelling:
        raise UserError(
            "does not begin with an identity's number, as 0001_c1s1_001051_00.jpg does, and is not "
            "in a sub-folder named by one: rename or remove it, or set data.pattern"
        )
    groups = [f for word, f in zip(levels, folders, strict=False) if word == GROUP]
    identity = plain_identity(spelling)
    if groups and PERSON in named and "pid" not in given:
        identity = "/".join((*groups, spelling))
    if pattern:
        camera = given.get("camera")
        return Labels(identity, plain_number(camera) if camera else None, spelling)
    return Labels(identity, _camera(base, named.get(CAMERA), levels, explicit), spelling)


def _camera(base: str, folder: str | None, levels: Levels, explicit: bool) -> str | None:
    """Return the camera that the folder or the filename names; None = neither."""
    of_name = camera_of(base)
    if folder is None:
        return of_name
    of_folder = camera_folder(folder) or plain_number(folder)
    if of_name not in (None, of_folder) and not explicit:
        other = "/".join(ANY if word == CAMERA else word for word in levels)
        raise UserError(
            f"tells two cameras, {of_folder} by its folder and {of_name} by its name: set "
            f"data.layout to {'/'.join(levels)} (folders) or {other} (names), after split/ if the "
            "upper folders are splits"
        )
    return of_folder


def find_levels(names: Sequence[str], location: str, prefix: str = "") -> Levels:
    """Return the levels of the folders of images.

    Args:
      names: the images' paths below one folder, for example of a split.
      location: this folder, for messages.
      prefix: "split/" below a split's folder, else "".

    Raises: AmbiguousLayoutError that names the readings and the setting of each.
    """
    deep = [_Path(tuple(f), b) for *f, b in (name.split("/") for name in names) if f]
    if not deep:
        return ()
    if _are_cameras(path.folders[0] for path in deep):
        readings = _below_cameras(deep)
    else:
        readings = _people(deep)
    if len(readings) > 1:
        raise _ambiguous(readings, [n for n in names if "/" in n], location, prefix)
    (levels,) = readings
    if levels == (CAMERA,) and not all(pid_of(path.base) for path in deep):
        raise AmbiguousLayoutError(
            f"'{location}/{'/'.join((*deep[0].folders, deep[0].base))}' lies in a folder named as "
            f"a camera, and its name begins with no identity's number: if '{deep[0].folders[0]}' "
            f"is a person, set data.layout={prefix}{PERSON}; or set data.pattern"
        )
    return levels


def _below_cameras(deep: Sequence[_Path]) -> list[Levels]:
    """Return the levels, in each possible reading, where the upper folders are named as cameras."""
    below = [_Path(p.folders[1:], p.base) for p in deep if len(p.folders) > 1]
    sure = all(is_surely_camera(p.folders[0]) for p in deep)
    people_below = 2 * len(below) >= len(deep) and not _are_neutral(p.folders[0] for p in below)
    if people_below and not _are_cameras(p.folders[0] for p in below):
        return [(CAMERA, *levels) for levels in _people(below)]
    numbered = all(pid_of(p.base) for p in deep)
    skipped = _neutral_above(below)
    if skipped and not all(LABELLED.match(p.base) for p in deep):
        inner = [(CAMERA, *levels) for levels in _below_neutral(below, skipped)]
        return [*inner, *([(CAMERA,)] if numbered else [])]
    if sure or (numbered and all(camera_of(p.base) for p in deep)):
        return [(CAMERA,)]
    return [(PERSON,), (CAMERA,)] if numbered else [(PERSON,)]


def _people(deep: Sequence[_Path]) -> list[Levels]:
    """Return the levels, in each possible reading, where the upper folders are not cameras."""
    lower = [p for p in deep if len(p.folders) > 1]
    cameras = bool(lower) and _are_cameras(p.folders[1] for p in lower)
    if all(LABELLED.match(p.base) for p in deep) and not _agree(deep, 0):
        tail = (CAMERA,) if cameras else ()
        if _are_neutral(p.folders[0] for p in deep) or (lower == deep and _agree(deep, 1)):
            return [(ANY, *tail)]
        return [(PERSON, *tail), (ANY, *tail)]
    if cameras:
        third = [p for p in lower if len(p.folders) > 2]
        if 2 * len(third) >= len(deep) and not _are_neutral(p.folders[2] for p in third):
            again = [(ANY, CAMERA, PERSON)] if _are_shared(third, 2) else []
            return [(PERSON, CAMERA), (GROUP, CAMERA, PERSON), *again]
        return [(PERSON, CAMERA)]
    skipped = _neutral_above(deep)
    if skipped > 1:
        return [(PERSON,), *_below_neutral(deep, skipped)]
    neutral = _are_neutral(p.folders[0] for p in deep)
    if 2 * len(lower) >= len(deep) and not _are_neutral(p.folders[1] for p in lower):
        below = _folders_below(lower, 1)
        if neutral or any(len(found) > 1 for found in below.values()):
            again = [(ANY, PERSON)] if _are_shared(lower, 1) else []
            return [(PERSON,), (GROUP, PERSON), *again]
    if neutral and all(pid_of(p.base) for p in deep):
        return [(PERSON,), (ANY,)]
    return [(PERSON,)]


def _folders_below(deep: Sequence[_Path], level: int) -> dict[str, set[str]]:
    """Return the folders of a level by the top folder."""
    below: dict[str, set[str]] = defaultdict(set)
    for p in deep:
        below[p.folders[0]].add(p.folders[level])
    return below


def _are_shared(deep: Sequence[_Path], level: int) -> bool:
    """Return whether folders of a level have the same name below two top folders."""
    below = _folders_below(deep, level).values()
    return len(set().union(*below)) < sum(map(len, below))


def _neutral_above(deep: Sequence[_Path]) -> int:
    """Return the number of upper levels that are neutral, if most images lie in others below."""
    level, at = 0, list(deep)
    while at and _are_neutral(p.folders[level] for p in at):
        level += 1
        at = [p for p in at if len(p.folders) > level]
    return level if 2 * len(at) >= max(len(deep), 1) else 0


def _below_neutral(deep: Sequence[_Path], skipped: int) -> list[Levels]:
    """Return the levels, in each possible reading, where the upper ones mean nothing."""
    below = [_Path(p.folders[skipped:], p.base) for p in deep if len(p.folders) > skipped]
    upper = (ANY,) * skipped
    if _are_cameras(p.folders[0] for p in below):
        return [(*upper, *levels) for levels in _below_cameras(below)]
    return [(*upper, *levels) for levels in _people(below)]


def _are_cameras(folders: Iterable[str]) -> bool:
    return all(camera_folder(folder) is not None for folder in set(folders))


def _are_neutral(folders: Iterable[str]) -> bool:
    return all(NEUTRAL.fullmatch(folder) for folder in set(folders))


def _agree(deep: Sequence[_Path], level: int) -> bool:
    """Return whether the folders of a level divide the images as the numbers in their names do."""
    pairs = {(p.folders[level], plain_identity(pid_of(p.base) or "")) for p in deep}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def _ambiguous(
    readings: Sequence[Levels], names: Sequence[str], location: str, prefix: str
) -> AmbiguousLayoutError:
    """Return the error that names the number of people by each reading, and its setting."""
    example = max(names, key=lambda name: (name.count("/"), len(name)))
    choices = []
    for levels in readings:
        people = set()
        for name in names:
            try:
                people.add(read_labels(name, levels, None, explicit=True).identity)
            except UserError:  # the image lies above the level, with no number in its name
                continue
        who = read_labels(example, levels, None, explicit=True).identity
        choices.append(
            f"{len(people):,} people, here '{who}', by data.layout={prefix}{'/'.join(levels)}"
        )
    several = any(len(levels) > 1 for levels in readings)
    cameras = f"; if a level is cameras, name it {CAMERA}" if several else ""
    return AmbiguousLayoutError(
        f"'{posixpath.join(location, example)}' can be read in {len(readings)} ways: "
        f"{'; or '.join(choices)}: set the one that is meant{cameras}"
    )
