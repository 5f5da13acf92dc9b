"""A text file with a path a line, kept as bytes: a name becomes a string when it is read."""

import codecs
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from batnet_jax.data.files.safe_open import read_whole
from batnet_jax.errors import UserError

_SPACES = np.frombuffer(b" \t\r", np.uint8)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class NameList(Sequence[str]):
    """The paths of a list, relative to its folder.

    A line ends with a newline, with or without a carriage return, and with nothing else: names may
    hold every other character. Spaces and tabs around a name are left out. Names need not be UTF-8.
    """

    def __init__(self, text: bytes, folder: Path):
        """Find the lines.

        Args:
          text: the file's content, in UTF-8 or any encoding of the system's file names.
          folder: of the file.
        """
        self._text = text
        self._folder = str(folder)
        starts, ends = _find_lines(np.frombuffer(text, np.uint8))
        wanted = np.ones(len(starts), bool)
        characters = np.frombuffer(text, np.uint8)
        for line in np.flatnonzero(characters[starts] == ord("#")).tolist():
            # A comment, unless a file has this name.
            wanted[line] = os.path.lexists(self._path(int(starts[line]), int(ends[line])))
        self._starts, self._ends = starts[wanted], ends[wanted]

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._path(int(self._starts[index]), int(self._ends[index]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def _path(self, start: int, end: int) -> str:
        return os.path.join(self._folder, os.fsdecode(self._text[start:end]))


def read_names(path: Path) -> NameList:
    """Read a list, with or without a byte order mark; see `NameList`.

    Raises: UserError if the file cannot be read, is not text, or lists nothing.
    """
    wrong = f"'{path}' is neither an image of a known format nor a text file with a path a line"
    try:
        text = read_whole(path)
        if text.startswith(_UTF16):
            text = text.decode("utf-16").encode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(wrong) from error
    text = text.removeprefix(codecs.BOM_UTF8)
    if b"\0" in text:
        raise UserError(wrong)
    names = NameList(text, path.parent)
    if not len(names):
        raise UserError(f"'{path}' lists no image: write one path a line")
    return names


def _find_lines(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the lines of a text that are not blank, without spaces at their ends.

    Args:
      text: [n] uint8.
    """
    breaks = np.flatnonzero(text == ord("\n"))
    starts, ends = np.concatenate([[0], breaks + 1]), np.concatenate([breaks, [len(text)]])
    while True:
        starts, ends = starts[starts < ends], ends[starts < ends]
        left, right = np.isin(text[starts], _SPACES), np.isin(text[ends - 1], _SPACES)
        if not left.any() and not right.any():
            return starts, ends
        starts, ends = starts + left, ends - right
