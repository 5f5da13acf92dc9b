"""Reads arrays of numbers and cell arrays of strings from MATLAB v5 files.

`scipy.io.loadmat` (1.17) is not used, because it trusts the file: a cell array of declared size
5e8 in 184 bytes takes 4 GB, and nested cells, or a few changed bytes, crash the process.

The format is level 5 of MathWorks, "MAT-File Format": a header of 128 bytes, then elements. An
element has a type and a size (4 bytes each, or 2 each with up to 4 bytes of data), then its data,
padded to a multiple of 8 bytes.
"""

import zlib
from collections.abc import Collection, Iterator

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


def read_mat(content: bytes, wanted: Collection[str]) -> dict[str, np.ndarray | list[str]]:
    """Return the `wanted` variables in a file: flat arrays and lists of strings.

    Entries are in MATLAB's order, column by column. Missing variables are left out.

    Raises: ValueError if the file is damaged, or a wanted variable has another type.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or content[124:126] not in (b"\0\1", b"\1\0"):
        raise ValueError("it has no header of MATLAB v5")
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    variables, left = {}, MAX_BYTES
    for kind, data in _elements(content, 128, order):
        if kind == COMPRESSED:
            data = _unpack(data, left)
            left -= len(data)
            kind, data = next(_elements(data, 0, order), (0, b""))
        if kind == MATRIX:
            name, value = _matrix(data, order, wanted)
            if name in wanted:
                variables[name] = value
    return variables


def _unpack(data: bytes, most: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(data, max(most, 1))  # 0 would be no limit
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not unpacker.eof:
        more = f"it holds more than {MAX_BYTES:,} bytes"
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


def _matrix(data: bytes, order: str, wanted: Collection[str]) -> tuple[str, np.ndarray | list[str]]:
    """Return the name and the value of a matrix element; an unwanted value is []."""
    parts = _elements(data, 0, order)
    (_, flags), _, (_, name) = (next(parts, (0, b"")) for _ in range(3))
    name = name.decode("latin1")
    if name not in wanted or not flags:
        return name, []
    form = np.frombuffer(flags[:4], f"{order}u4")[0] & 0xFF if len(flags) == 8 else 0
    if form == CELL:
        return name, [_string(cell, order) for kind, cell in parts if kind == MATRIX]
    kind, values = next(parts, (0, b""))
    if form not in NUMERIC or kind not in NUMBERS:
        raise ValueError(f"'{name}' is neither numbers nor strings")
    return name, np.frombuffer(values, order + NUMBERS[kind])


def _string(data: bytes, order: str) -> str:
    parts = _elements(data, 0, order)
    (_, flags), _, _, (kind, text) = (next(parts, (0, b"")) for _ in range(4))
    form = np.frombuffer(flags[:4], f"{order}u4")[0] & 0xFF if len(flags) == 8 else 0
    if form != CHARACTERS or kind not in TEXTS:
        raise ValueError("it has a cell that holds no string")
    encoding = TEXTS[kind]
    if encoding in ("utf-16", "utf-32"):
        encoding += "-le" if order == "<" else "-be"
    return text.decode(encoding)
