"""Checksums of the blocks of an array, kept as text in the comment of an .npz.

The comment begins with `batnet_jax sums`, the CRC-32 of the rest of the comment, the size of a
block and the CRC-32 of each block; a newline ends the list. The first block begins with the header
of the array.
"""

import zlib

import numpy as np

from batnet_jax.retrieval.row_file import BlockSums

_START = b"batnet_jax sums "
_DIGITS = 8
_LEAST = 2**20
"""Bytes of a block."""
_MOST_BLOCKS = 4096
"""Limit of the blocks: a comment has at most 65,535 bytes."""


def block_size(nbytes: int) -> int:
    """Return the size of a block for an array of `nbytes` with its header."""
    return max(_LEAST, 1 << (-(-nbytes // _MOST_BLOCKS) - 1).bit_length())


class SumWriter:
    """Computes the checksums of blocks while an array is written."""

    def __init__(self, size: int):
        """Begin with the first block.

        Args:
          size: of a block, in bytes.
        """
        self._size, self._left, self._sum = size, size, 0
        self._sums: list[int] = []

    def add(self, data: bytes | memoryview) -> bytes | memoryview:
        """Add the next bytes, and return them."""
        rest = memoryview(data)
        while len(rest):
            part = rest[: self._left]
            self._sum = zlib.crc32(part, self._sum)
            self._left -= len(part)
            rest = rest[len(part) :]
            if not self._left:
                self._end_block()
        return data

    def comment(self, mark: bytes) -> bytes:
        """Return the comment, which ends with `mark`, after the last bytes have been added."""
        if self._left < self._size:
            self._end_block()
        sums = "".join(f"{value:08x}" for value in self._sums)
        rest = f" {self._size} {sums}\n".encode() + mark
        return _START + f"{zlib.crc32(rest):08x}".encode() + rest

    def _end_block(self) -> None:
        self._sums.append(self._sum)
        self._left, self._sum = self._size, 0


def has_sums(comment: bytes) -> bool:
    """Return whether the comment of an .npz is of `SumWriter`."""
    return comment.startswith(_START)


def read_sums(comment: bytes, start: int, end: int) -> BlockSums | None:
    """Return the checksums in a comment; None if it has none.

    Args:
      comment: of the .npz.
      start: the first byte of the array's header.
      end: the byte behind the last value.

    Raises: ValueError if they are damaged, or of an array of another size.
    """
    if not has_sums(comment):
        return None
    own, rest = comment[len(_START) :][:_DIGITS], comment[len(_START) + _DIGITS :]
    if own != f"{zlib.crc32(rest):08x}".encode():
        raise ValueError("its list of checksums is damaged")
    size, digits = rest.partition(b"\n")[0].decode("ascii").split()
    wanted = -(-(end - start) // int(size)) if size.isdecimal() and int(size) else 0
    if not wanted or len(digits) != wanted * _DIGITS:
        raise ValueError("its checksums are of other features")
    return BlockSums(start, end, int(size), np.frombuffer(bytes.fromhex(digits), ">u4"))
