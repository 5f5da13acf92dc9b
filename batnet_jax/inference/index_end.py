"""The end of an index for faiss: the names of its images, and a checksum of all bytes.

faiss reads an index from the start of a file and does not look at what follows. Behind the index
lie the paths of the images, a JSON object that describes the index, and `batnet_jax index` with the
length of the object and a CRC-32 of everything before. The fingerprint of the model comes last.
"""

import json
import os
import re
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

from batnet_jax.errors import UserError
from batnet_jax.runtime.read_files import is_number

_START = b"batnet_jax index "
_END = re.compile(_START + rb"(\d{10}) ([0-9a-f]{8})(batnet_jax fingerprint [0-9a-z]{32})?")
_LONGEST = 200
"""Bytes that hold `_END`."""
_LONGEST_FACTS = 10_000


class IndexEnd(NamedTuple):
    """What follows an index."""

    length: int
    """Bytes of the index."""
    paths: list[str] | None
    """Of the images; None if the index does not name them."""
    facts: dict[str, Any]
    """`kind` and, of an approximate index, `recall`."""


def write_end(
    file: BinaryIO, mark: bytes, paths: Sequence[str] | None, facts: dict[str, Any]
) -> None:
    """Write the end of an index's file.

    Args:
      file: of the index, open for reading and writing.
      mark: of the fingerprint, see `feature_file.mark`.
      paths: of the images; None if they are not known.
      facts: see `IndexEnd`.

    Raises: UserError for a path with a null byte, which no file can have.
    """
    length = file.seek(0, os.SEEK_END)
    names = b""
    if paths is not None:
        odd = next((path for path in paths if "\0" in path), None)
        if odd is not None:
            raise UserError(f"'{odd}' holds a null byte: an index cannot name this image")
        names = "\0".join(paths).encode("utf-8", "surrogatepass")
    count = None if paths is None else len(paths)
    about = {**facts, "bytes": length, "names": len(names), "count": count}
    text = json.dumps(about).encode()
    file.write(names + text)
    file.flush()
    total = zlib.crc32(mark, crc_of(file, 0, length + len(names) + len(text)))
    file.seek(0, os.SEEK_END)
    file.write(_START + f"{len(text):010d} {total:08x}".encode() + mark)


def read_index_end(file: BinaryIO) -> IndexEnd | None:
    """Read the end of an index's file; compare all bytes with the checksum.

    Returns: None if `write_end` has not written the end of the file.

    Raises: ValueError if the file is damaged.
    """
    last = read_end(file, _LONGEST)
    place = last.rfind(_START)
    if place < 0:
        return None
    found = _END.fullmatch(last, place)
    end = os.fstat(file.fileno()).st_size - len(last) + place
    if found is None or zlib.crc32(found[3] or b"", crc_of(file, 0, end)) != int(found[2], 16):
        raise ValueError("it does not match its checksum")
    size = int(found[1])
    if size > min(_LONGEST_FACTS, end):
        raise ValueError("its end is damaged")
    file.seek(end - size)
    about = json.loads(file.read(size))
    numbers = [about.get(name) for name in ("bytes", "names")]
    if not all(type(n) is int and n >= 0 for n in numbers) or sum(numbers) + size != end:
        raise ValueError("its parts have other sizes")
    file.seek(numbers[0])
    names = file.read(numbers[1]).decode("utf-8", "surrogatepass")
    count = about.pop("count", None)
    paths = None if count is None else names.split("\0") if count else []
    if paths is not None and len(paths) != count:
        raise ValueError("it names another number of images")
    return IndexEnd(numbers[0], paths, about)


def recall_of(end: IndexEnd) -> float | None:
    """Return the share of the best ten that an index found when it was built; None if unknown."""
    recall: Any = end.facts.get("recall")
    return float(recall) if is_number(recall) else None


def crc_of(file: BinaryIO, start: int, end: int) -> int:
    """Return the CRC-32 of the bytes of a file from `start` to before `end`."""
    file.seek(start)
    found, left = 0, end - start
    while part := file.read(min(left, 1 << 22)):
        found, left = zlib.crc32(part, found), left - len(part)
    return found


def read_end(file: BinaryIO, count: int) -> bytes:
    """Return the last bytes of a file."""
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - count))
    return file.read(count)
