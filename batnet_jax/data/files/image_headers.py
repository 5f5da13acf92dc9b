"""Checks of an image file's header before the image is decoded.

A file of 100 bytes may declare any size, and decoders allocate the memory before they read on.
"""

import re
import struct
from collections.abc import Iterator

from batnet_jax.data.files import heic
from batnet_jax.errors import UserError

MAX_PIXELS = 100_000_000
"""Limit of an image; decoding takes 3 to 8 bytes a pixel."""
MAX_SCANS = 100
"""Limit of a progressive JPEG: a scan of a few bytes costs a pass over all pixels."""
FORMATS = "JPEG, PNG, BMP, WebP, TIFF, GIF, AVIF, JPEG 2000 or PNM"

JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)
"""The end marker and the markers before a segment; others have no segment or are pixels."""
JPEG_END, JPEG_SCAN = 0xD9, 0xDA
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
PNG = b"\x89PNG\r\n\x1a\n"
TIFFS = (b"II*\0", b"MM\0*")
STARTS = (b"\xff\xd8", PNG, b"BM", *TIFFS)
PILLOW_STARTS = {b"GIF87a": "GIF", b"GIF89a": "GIF", b"\xff\x4f\xff\x51": "JPEG2000"}
PILLOW_STARTS |= {b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000"}
PILLOW_STARTS |= {b"P%d%c" % (kind, space): "PPM" for kind in range(1, 7) for space in b" \t\r\n"}
UNREAD_STARTS = {b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL", b"8BPS": "PSD"}
AVIF_BRANDS = {b"avif", b"avis"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
TIFF_BITS, TIFF_SAMPLES, TIFF_EXTRA_SAMPLES = 258, 277, 338
TIFF_MOST_BITS = 16
TIFF_SIZES = {256: "width", 257: "height", 322: "tile width", 323: "tile height"}
TIFF_FORMATS = {3: "H", 4: "I"}  # type of a value -> format of `struct`


def check_size(encoded: bytes) -> None:
    """Refuse an image that would take too much memory or time to decode.

    The formats that Pillow reads are left to its header reader, see `pillow_format`.

    Raises: UserError with only the reason.
    """
    if pillow_format(encoded) is not None:
        return
    if name := _unread_format(encoded):
        install = f"{heic.INSTALL}, or " if name == "HEIC" else ""
        raise UserError(f"{name}, which is not read: {install}convert it to JPEG or PNG")
    try:
        sizes = _sizes(encoded)
    except UserError:
        raise
    except (struct.error, ValueError):
        raise UserError("cut off, or no image") from None
    for width, height in sizes:
        check_pixels(width, height)


def check_pixels(width: int, height: int) -> None:
    """Refuse an image of more than `MAX_PIXELS`.

    Raises: UserError with only the reason.
    """
    if width * height > MAX_PIXELS:
        raise UserError(f"{width:,} x {height:,} pixels, of which at most {MAX_PIXELS:,} are read")


def pillow_format(encoded: bytes) -> str | None:
    """Return Pillow's name of the format if only Pillow reads the format, else None."""
    if encoded[4:8] == b"ftyp":
        brands = _brands(encoded)
        is_heic = bool(HEIC_BRANDS & brands) and heic.reads_heic()
        return "AVIF" if AVIF_BRANDS & brands else "HEIF" if is_heic else None
    return next((name for start, name in PILLOW_STARTS.items() if encoded.startswith(start)), None)


def _unread_format(encoded: bytes) -> str:
    """Return the name of a common format of photos that is not read; "" = none of them."""
    if encoded[4:8] == b"ftyp":
        return "HEIC" if HEIC_BRANDS & _brands(encoded) else ""
    return next((name for start, name in UNREAD_STARTS.items() if encoded.startswith(start)), "")


def _brands(encoded: bytes) -> set[bytes]:
    """Return the brands of an ISO media file, such as a HEIC or an AVIF file."""
    box = encoded[: min(int.from_bytes(encoded[:4], "big"), 256)]
    return {box[8:12], *(box[place : place + 4] for place in range(16, len(box), 4))}


def is_known(encoded: bytes) -> bool:
    """Return whether a file, or its first 32 bytes, begins as one of `FORMATS` does."""
    return pillow_format(encoded) is not None or encoded.startswith(STARTS) or _is_webp(encoded)


def _is_webp(encoded: bytes) -> bool:
    return encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP"


def has_alpha(encoded: bytes) -> bool:
    """Return whether the header of a PNG, BMP, WebP or TIFF declares transparency.

    Raises: nothing for a header that `check_size` accepts.
    """
    if encoded.startswith(PNG):
        return encoded[25] in (4, 6) or _has_png_colour_key(encoded)
    if encoded.startswith(b"BM"):  # the mask of the opacity, in a header that has one
        size, bits, mask = encoded[14:18], encoded[28:30], encoded[66:70]
        large = int.from_bytes(size, "little") >= 56
        return large and int.from_bytes(bits, "little") == 32 and any(mask)
    if _is_webp(encoded):
        if encoded[12:16] == b"VP8X":
            return bool(encoded[20] & 0x10)
        return encoded[12:16] == b"VP8L" and bool(encoded[24] & 0x10)
    if encoded.startswith(TIFFS):
        return TIFF_EXTRA_SAMPLES in (tags := _tiff_tags(encoded)) or tags.get(TIFF_SAMPLES) == 4
    return False


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
    if _is_webp(encoded):
        return [_webp_size(encoded)]
    if encoded.startswith(TIFFS):
        _refuse_long_samples(encoded)
        return _tiff_sizes(encoded)
    raise ValueError(f"is not {FORMATS}")


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
    found = dict.fromkeys(TIFF_SIZES.values(), 0)
    for tag, value in _tiff_entries(encoded):
        if tag in TIFF_SIZES:
            if value is None:
                raise ValueError("is not a size")
            found[TIFF_SIZES[tag]] = max(found[TIFF_SIZES[tag]], value)
    return [(found["width"], found["height"]), (found["tile width"], found["tile height"])]


def _refuse_long_samples(encoded: bytes) -> None:
    """Refuse a TIFF of more than 16 bits a sample, because the range of its numbers is unknown.

    Raises: UserError with only the reason; struct.error or ValueError if the header is damaged.
    """
    order = "<" if encoded.startswith(b"II") else ">"
    for tag, kind, number, entry in _tiff_list(encoded):
        if tag == TIFF_BITS and kind == 3 and number:
            place = (
                entry + 8 if number <= 2 else struct.unpack_from(order + "I", encoded, entry + 8)[0]
            )
            (bits,) = struct.unpack_from(order + "H", encoded, place)
            if bits > TIFF_MOST_BITS:
                raise UserError(
                    f"a TIFF of {bits} bits a sample, whose numbers have no known range: scale "
                    "them, and save 8 bits"
                )


def _tiff_tags(encoded: bytes) -> dict[int, int | None]:
    """Return the tags of the first page of a TIFF."""
    return dict(_tiff_entries(encoded))


def _tiff_entries(encoded: bytes) -> Iterator[tuple[int, int | None]]:
    """Yield each tag of the first page of a TIFF with its number; None if it is not one number.

    Raises: struct.error if the list of tags is cut off.
    """
    order = "<" if encoded.startswith(b"II") else ">"
    for tag, kind, number, entry in _tiff_list(encoded):
        value = None
        if kind in TIFF_FORMATS and number == 1:
            (value,) = struct.unpack_from(order + TIFF_FORMATS[kind], encoded, entry + 8)
        yield tag, value


def _tiff_list(encoded: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield tag, type, number of values and offset of each entry of the first page of a TIFF.

    Raises: struct.error if the list of tags is cut off.
    """
    order = "<" if encoded.startswith(b"II") else ">"
    (place,) = struct.unpack_from(order + "I", encoded, 4)
    (count,) = struct.unpack_from(order + "H", encoded, place)
    for entry in range(place + 2, place + 2 + 12 * count, 12):
        yield *struct.unpack_from(order + "HHI", encoded, entry), entry  # type: ignore[misc]


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
    return any(name == b"IEND" and end <= len(encoded) for name, end in _png_chunks(encoded))


def _has_png_colour_key(encoded: bytes) -> bool:
    """Return whether a PNG names transparent colours before its pixels."""
    for name, _ in _png_chunks(encoded):
        if name in (b"tRNS", b"IDAT"):
            return name == b"tRNS"
    return False


def _png_chunks(encoded: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the name of each chunk of a PNG, up to IEND, and the offset behind the chunk."""
    place = 8
    while place + 12 <= len(encoded):  # length, name, [length], checksum
        end = place + 12 + int.from_bytes(encoded[place : place + 4], "big")
        name = encoded[place + 4 : place + 8]
        yield name, end
        if name == b"IEND":
            return
        place = end
