"""Checks of an image file's header before the image is decoded.

A file of 100 bytes may declare any size, and decoders allocate the memory before they read on.
"""

import re
import struct
from collections.abc import Iterator

import cv2
import numpy as np

from batnet_jax.errors import UserError

MAX_PIXELS = 100_000_000
"""Limit of an image; decoding takes 3 to 8 bytes a pixel."""
MAX_SCANS = 100
"""Limit of a progressive JPEG: a scan of a few bytes costs a pass over all pixels."""
FORMATS = "JPEG, PNG, BMP, WebP or TIFF"

JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)
"""The end marker and the markers before a segment; others have no segment or are pixels."""
JPEG_END, JPEG_SCAN = 0xD9, 0xDA
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
PNG = b"\x89PNG\r\n\x1a\n"
TIFF_SIZES = {256: "width", 257: "height", 322: "tile width", 323: "tile height"}
TIFF_FORMATS = {3: "H", 4: "I"}  # type of a value -> format of `struct`


def read_pixels(encoded: bytes) -> np.ndarray:
    """Decode an image file into [h, w, 3] uint8, BGR, upright; grey is repeated.

    Raises: UserError with only the reason, for the caller to add the filename, if the file is
      damaged, in none of `FORMATS`, or declares more than `MAX_PIXELS`.
    """
    check_size(encoded)
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # OpenCV's own limits of the size, too
        image = None
    if image is None:
        raise UserError("cut off, or no image")
    return image


def check_size(encoded: bytes) -> None:
    """Refuse an image that would take too much memory or time to decode.

    Raises: UserError, as `read_pixels` does.
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
    """Return the (width, height) in pixels of each image that a decoder allocates.

    Raises: struct.error or ValueError if the header is damaged; UserError for too many scans.
    """
    if encoded.startswith(b"\xff\xd8"):
        return [_jpeg_size(encoded)]
    if encoded.startswith(PNG):
        if not _has_png_end(encoded):  # OpenCV allocates a chunk of any declared length
            raise ValueError("is cut off")
        return [struct.unpack_from(">II", encoded, 16)]
    if encoded.startswith(b"BM"):
        old = encoded[14:18] == b"\x0c\0\0\0"
        width, height = struct.unpack_from("<HH" if old else "<ii", encoded, 18)
        return [(abs(width), abs(height))]  # a negative height: rows start at the top
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
    if kind == b"VP8X":  # width - 1 and height - 1 of the canvas, 24 bits each
        low, middle, high = struct.unpack_from("<HHH", encoded, 24)
        return (low | (middle & 0xFF) << 16) + 1, (middle >> 8 | high << 8) + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", encoded, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", encoded, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff_sizes(encoded: bytes) -> list[tuple[int, int]]:
    """Return the sizes of the first page and of its tiles; the larger if a tag is repeated."""
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
    """Return whether a JPEG or PNG lacks its end; some OpenCV versions fill the rest with grey."""
    if encoded.startswith(b"\xff\xd8"):
        return all(marker != JPEG_END for marker, _ in jpeg_markers(encoded))
    if encoded.startswith(b"\x89PNG"):
        return not _has_png_end(encoded)
    return False


def jpeg_markers(encoded: bytes) -> Iterator[tuple[int, int]]:
    """Yield the markers of a JPEG, up to its end marker, and the offsets behind the markers.

    A search for the two bytes of the end marker would find others: thumbnails in the header, and
    data that some cameras append, have end markers too.
    """
    place = 2
    while match := JPEG_MARKER.search(encoded, place):
        marker, place = match[0][1], match.end()
        yield marker, place
        if marker == JPEG_END:
            return
        place += int.from_bytes(encoded[place : place + 2], "big")  # the segment's length


def _has_png_end(encoded: bytes) -> bool:
    """Return whether the chain of chunks reaches a whole IEND chunk within the file."""
    place = 8
    while place + 12 <= len(encoded):  # length, name, [length], checksum
        end = place + 12 + int.from_bytes(encoded[place : place + 4], "big")
        if encoded[place + 4 : place + 8] == b"IEND":
            return end <= len(encoded)
        place = end
    return False
