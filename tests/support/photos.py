"""Encoded images of many formats, whole ones, and what tests damage them with."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image, ImageOps

ORIENTATION = 0x112  # EXIF's tag


def photo(height=96, width=48):
    """Draw a smooth colourful image with noise, whose JPEG has many bytes of scan."""
    y, x = np.mgrid[:height, :width]
    colours = [255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1), (3 * x + 2 * y) % 256]
    noise = np.random.default_rng(0).normal(0, 20, (height, width, 3))
    noisy = (np.stack(colours, -1) + noise).clip(0, 255).astype(np.uint8)
    return Image.fromarray(cv2.GaussianBlur(noisy, (0, 0), 1))


def write_noise(folder, count):
    """Make a folder of PNGs of noise, named by two digits from 00 on."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (40, 24, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.png"), pixels)


def encode(image, form, **options):
    """Return the bytes of an image in one of Pillow's formats."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def oriented(form, orientation, image=None, **options):
    """Encode an image, by default PHOTO, with an EXIF orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(image or PHOTO, form, exif=exif, **options)


def pillow(encoded):
    """Decode with Pillow, to compare with OpenCV. Returns: [h, w, 3] uint8."""
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def with_segment(jpeg, marker, content):
    """Insert a segment at the beginning of a JPEG's header."""
    return (
        jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]
    )


def png(width, height, data):
    """Return a PNG of 1 bit a pixel; `data` may be shorter than its size requires."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


PHOTO = photo()
PIXELS = np.asarray(PHOTO)
JPEG = encode(PHOTO, "JPEG", quality=90)
PROGRESSIVE = encode(PHOTO, "JPEG", quality=90, progressive=True)
PNG_PHOTO = encode(PHOTO, "PNG")
THUMBNAIL = encode(PHOTO.resize((12, 24)), "JPEG")
EXIF_THUMBNAIL = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + THUMBNAIL
WITH_THUMBNAIL = with_segment(JPEG, 0xE1, EXIF_THUMBNAIL)
ALPHA = np.tile(np.arange(48, dtype=np.uint8) * 5, (96, 1))

WHOLE = (
    {
        "baseline": JPEG,
        "progressive": PROGRESSIVE,
        "subsampled": encode(PHOTO, "JPEG", subsampling="4:2:0"),
        "restart markers": encode(PHOTO, "JPEG", restart_marker_blocks=2),
        "trailing bytes": JPEG + b"trailing bytes",
        "trailing scan": JPEG
        + b"\xff\xda and no end",  # a phone's film after its photo has such bytes
        "trailing part of a JPEG": JPEG + JPEG[:900],
        "thumbnail": WITH_THUMBNAIL,
        "markers in a comment": with_segment(JPEG, 0xFE, b"\xff\xd9\xff\xda\xff\xd8"),
        "fill bytes": JPEG[:2] + b"\xff\xff\xff" + JPEG[2:],
        "grey JPEG": encode(PHOTO.convert("L"), "JPEG"),
        "PNG": PNG_PHOTO,
        "PNG, trailing bytes": PNG_PHOTO + bytes(70_000),
        "interlaced bits": encode(PHOTO.convert("1"), "PNG"),
        "grey": encode(PHOTO.convert("L"), "PNG"),
        "grey and alpha": encode(PHOTO.convert("LA"), "PNG"),
        "palette": encode(PHOTO.convert("P"), "PNG"),
        "palette, transparent": encode(PHOTO.convert("P"), "PNG", transparency=3),
        "alpha": encode(Image.fromarray(np.dstack([PIXELS, ALPHA])), "PNG"),
        "BMP": encode(PHOTO, "BMP"),
        "WebP": encode(PHOTO, "WEBP"),
        "lossless WebP": encode(PHOTO, "WEBP", lossless=True),
        "TIFF": encode(PHOTO, "TIFF"),
        "LZW TIFF": encode(PHOTO, "TIFF", compression="tiff_lzw"),
        "1 x 1": encode(photo(1, 1), "JPEG"),
        "1 x 500": encode(photo(1, 500), "JPEG"),
        "500 x 1": encode(photo(500, 1), "PNG"),
    }
    | {f"orientation {way}": oriented("JPEG", way) for way in range(1, 9)}
)
"""Images that every reader must decode, by what is special about them."""
