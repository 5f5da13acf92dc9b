"""What an image file says of itself, read before anything is decoded.

A file of a hundred bytes may declare any size, and whoever decodes it takes the memory first.
"""

import re
import struct
from collections.abc import Iterator

import cv2
import numpy as np

from batnet_jax.errors import UserError

MAX_PIXELS = 100_000_000
"""Of an image; decoding one takes 3 to 8 bytes a pixel."""
MAX_SCANS = 100
"""Of a progressive JPEG; each is a pass over all of its pixels, and may take a few bytes only."""
FORMATS = "JPEG, PNG, BMP, WebP or TIFF"

JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)
"""Those that a segment follows, or the end; the others stand alone, or are pixels."""
JPEG_END, JPEG_SCAN = 0xD9, 0xDA
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
PNG = b"\x89PNG\r\n\x1a\n"
TIFF_SIZES = {256: "width", 257: "height", 322: "tile width", 323: "tile height"}
TIFF_FORMATS = {3: "H", 4: "I"}  # of a value, by its type


def read_pixels(encoded: bytes) -> np.ndarray:
    """Decodes an image file: [h, w, 3] uint8, BGR, turned upright; grey is repeated.

    Raises: UserError with the bare reason, to be put after the file's name, if it is none of
      `FORMATS`, damaged, or declares more than `MAX_PIXELS`.
    """
    check_size(encoded)
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # of sizes, too
        image = None
    if image is None:
        raise UserError("cut off, or no image")
    return image


def check_size(encoded: bytes) -> None:
    """Refuses what would take too much memory or time to decode.

    Raises: see `read_pixels`.
    """
    try:
        sizes = _sizes(encoded)
    except UserError:
        raise
    except (struct.error, ValueError):
        raise UserError("cut off, or no image") from None
    for width, height in sizes:
        if width * height > MAX_PIXELS:
            raise UserError(
                f"{width:,} x {height:,} pixels, of which at most {MAX_PIXELS:,} are read"
            )


def _sizes(encoded: bytes) -> list[tuple[int, int]]:
    """(width, height), in pixels, of what a decoder makes room for.

    Raises: struct.error or ValueError if it cannot be told; UserError for too many scans.
    """
    if encoded.startswith(b"\xff\xd8"):
        return [_jpeg_size(encoded)]
    if encoded.startswith(PNG):
        if not _has_png_end(encoded):  # OpenCV makes room for a chunk of any length
            raise ValueError("is cut off")
        return [struct.unpack_from(">II", encoded, 16)]
    if encoded.startswith(b"BM"):
        old = encoded[14:18] == b"\x0c\0\0\0"
        width, height = struct.unpack_from("<HH" if old else "<ii", encoded, 18)
        return [(abs(width), abs(height))]  # rows may come from the top
    if encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP":
        return [_webp_size(encoded)]
    if encoded.startswith((b"II*\0", b"MM\0*")):
        return _tiff_sizes(encoded)
    raise ValueError(f"is no {FORMATS}")


def _jpeg_size(encoded: bytes) -> tuple[int, int]:
    markers = list(jpeg_markers(encoded))
    scans = sum(marker == JPEG_SCAN for marker, _ in markers)
    if scans > MAX_SCANS:
        raise UserError(f"a JPEG of {scans:,} scans, of which at most {MAX_SCANS} are read")
    for marker, place in markers:
        if marker in JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", encoded, place + 3)
            return width, height
    raise ValueError("has no frame")


def _webp_size(encoded: bytes) -> tuple[int, int]:
    kind = encoded[12:16]
    if kind == b"VP8X":  # the canvas, less one, in 24 bits each
        low, middle, high = struct.unpack_from("<HHH", encoded, 24)
        return (low | (middle & 0xFF) << 16) + 1, (middle >> 8 | high << 8) + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", encoded, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", encoded, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff_sizes(encoded: bytes) -> list[tuple[int, int]]:
    """Of the first page and of its tiles; the larger where a tag comes twice."""
    order = "<" if encoded.startswith(b"II") else ">"
    (place,) = struct.unpack_from(order + "I", encoded, 4)
    (count,) = struct.unpack_from(order + "H", encoded, place)
    found = dict.fromkeys(TIFF_SIZES.values(), 0)
    for entry in range(place + 2, place + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", encoded, entry)
        if tag in TIFF_SIZES:
            if kind not in TIFF_FORMATS or number != 1:
                raise ValueError("is no size")
            (value,) = struct.unpack_from(order + TIFF_FORMATS[kind], encoded, entry + 8)
            found[TIFF_SIZES[tag]] = max(found[TIFF_SIZES[tag]], value)
    return [(found["width"], found["height"]), (found["tile width"], found["tile height"])]


def is_cut_off(encoded: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end; some versions of OpenCV fill the rest with grey."""
    if encoded.startswith(b"\xff\xd8"):
        return all(marker != JPEG_END for marker, _ in jpeg_markers(encoded))
    if encoded.startswith(b"\x89PNG"):
        return not _has_png_end(encoded)
    return False


def jpeg_markers(encoded: bytes) -> Iterator[tuple[int, int]]:
    """The markers of a JPEG and the places behind them, up to that of its end.

    To search for the end's two bytes would not do: a small picture inside the header has an end of
    its own, and so has what some cameras append.
    """
    place = 2
    while match := JPEG_MARKER.search(encoded, place):
        marker, place = match[0][1], match.end()
        yield marker, place
        if marker == JPEG_END:
            return
        place += int.from_bytes(encoded[place : place + 2], "big")  # of the segment


def _has_png_end(encoded: bytes) -> bool:
    """Whether going from chunk to chunk, each within the file, the last is met."""
    place = 8
    while place + 12 <= len(encoded):  # length, name, [length], checksum
        end = place + 12 + int.from_bytes(encoded[place : place + 4], "big")
        if encoded[place + 4 : place + 8] == b"IEND":
            return end <= len(encoded)
        place = end
    return False
