"""Reads arrays of numbers, strings and cell arrays of strings from MATLAB v5 files.

`scipy.io.loadmat` (1.17) is not used, because it trusts the file: a cell array of declared size
5e8 in 184 bytes takes 4 GB, and nested cells, or a few changed bytes, crash the process.

The format is level 5 of MathWorks, "MAT-File Format": a header of 128 bytes, then elements. An
element has a type and a size (4 bytes each, or 2 each with up to 4 bytes of data), then its data,
padded to a multiple of 8 bytes.
"""

import math
import zlib
from collections.abc import Collection, Iterator, Sequence

import numpy as np

NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
TEXTS = {1: "latin1", 2: "latin1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
MATRIX, COMPRESSED = 14, 15
CELL, CHARACTERS, NUMERIC = 1, 4, range(6, 16)
"""Classes of a matrix element."""
MAX_BYTES = 20_000_000
"""Limit of a file and of its unpacked content; CUHK03's lists have about 2e6 bytes."""


Value = np.ndarray | list[str]


def read_mat(
    content: bytes, wanted: Collection[str] | None, *, shaped: bool = False, most: int = MAX_BYTES
) -> dict[str, Value]:
    """Return the `wanted` variables in a file: arrays and lists of strings.

    Cells and flat arrays are in MATLAB's order, column by column. Missing variables are left out.

    Args:
      content: of the file.
      wanted: names; None for all variables that are numbers or strings.
      shaped: return arrays in their shape, [rows, columns, ...], not flat.
      most: limit in bytes of the file and of its unpacked content.

    Raises: ValueError if the file is damaged, or a wanted variable has another type.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or content[124:126] not in (b"\0\1", b"\1\0"):
        raise ValueError("it has no header of MATLAB v5")
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    variables, left = {}, most
    for kind, data in _elements(content, 128, order):
        if kind == COMPRESSED:
            data = _unpack(data, left, most)
            left -= len(data)
            kind, data = next(_elements(data, 0, order), (0, b""))
        if kind == MATRIX:
            name, value = _matrix(data, order, wanted, shaped)
            if value is not None:
                variables[name] = value
    return variables


def _unpack(data: bytes, left: int, most: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(data, max(left, 1))  # 0 would be no limit
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not unpacker.eof:
        more = f"it holds more than {most:,} bytes"
        raise ValueError(more if unpacker.unconsumed_tail else "it is cut off")
    return unpacked


def _elements(data: bytes, place: int, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the data of each element from offset `place`."""
    while place < len(data):
        if place + 8 > len(data):
            raise ValueError("it is cut off")
        kind, size = np.frombuffer(data, f"{order}u4", 2, place).tolist()
        start = place + 8
        if kind >> 16:  # a small element: size and type share 4 bytes
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            if size > 4:
                raise ValueError("it has an element of a false size")
            place += 8
        else:
            place = start + size if kind == COMPRESSED else start + (size + 7) // 8 * 8
        if start + size > len(data):
            raise ValueError("it is cut off")
        yield kind, data[start : start + size]


def _matrix(
    data: bytes, order: str, wanted: Collection[str] | None, shaped: bool
) -> tuple[str, Value | None]:
    """Return the name and the value of a matrix element; an unwanted value is None."""
    parts = _elements(data, 0, order)
    (_, flags), (_, sizes), (_, name) = (next(parts, (0, b"")) for _ in range(3))
    name = name.decode("latin1")
    if wanted is not None and name not in wanted:
        return name, None
    form = _form(flags, order)
    shape = np.frombuffer(sizes[: len(sizes) // 4 * 4], f"{order}i4").tolist()
    try:
        if form == CELL:
            return name, [_string(cell, order) for kind, cell in parts if kind == MATRIX]
        kind, values = next(parts, (0, b""))
        if form == CHARACTERS and shaped and kind in TEXTS:
            return name, _rows_of_text(_decode(values, kind, order), shape)
        if form not in NUMERIC or kind not in NUMBERS:
            raise ValueError(f"'{name}' is neither numbers nor strings")
    except ValueError:
        if wanted is None:
            return name, None
        raise
    array = np.frombuffer(values, order + NUMBERS[kind])
    if not shaped:
        return name, array
    if min(shape, default=-1) < 0:
        raise ValueError(f"'{name}' has a false shape")
    return name, array.reshape(shape, order="F")


def _form(flags: bytes, order: str) -> int:
    """Return the class of a matrix element; 0 if it is damaged."""
    return np.frombuffer(flags[:4], f"{order}u4")[0] & 0xFF if len(flags) == 8 else 0


def _rows_of_text(text: str, shape: Sequence[int]) -> list[str]:
    """Return the rows of a matrix of characters, which holds them column by column."""
    rows = shape[0] if len(shape) == 2 else 0
    if rows < 0 or len(text) != math.prod(shape):
        raise ValueError("it has text of a false shape")
    return [text[row::rows] for row in range(rows)]


def _string(data: bytes, order: str) -> str:
    parts = _elements(data, 0, order)
    (_, flags), _, _, (kind, text) = (next(parts, (0, b"")) for _ in range(4))
    if _form(flags, order) != CHARACTERS or kind not in TEXTS:
        raise ValueError("it has a cell that holds no string")
    return _decode(text, kind, order)


def _decode(text: bytes, kind: int, order: str) -> str:
    encoding = TEXTS[kind]
    if encoding in ("utf-16", "utf-32"):
        encoding += "-le" if order == "<" else "-be"
    return text.decode(encoding)
