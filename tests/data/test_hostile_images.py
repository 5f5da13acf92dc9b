"""Hostile images.

Each is read or refused in one line, without hanging, large memory use, running code or writing.
"""

import io
import struct
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image
from support.fuzzing import examples, fuzz_files, refused, survives
from support.fuzzing import limits as limits
from support.photos import PHOTO, WHOLE, encode, png

from batnet_jax.data.checks import check_image
from batnet_jax.data.files import image_headers
from batnet_jax.data.files.pixels import read_picture
from batnet_jax.data.loading.loader import decode

FRAMES = [PHOTO.rotate(turn) for turn in (0, 10, 20)]
ANIMATED = {
    form: encode(FRAMES[0], form, save_all=True, append_images=FRAMES[1:])
    for form in ("PNG", "WEBP", "TIFF")
}
ODD = {
    "CMYK": encode(PHOTO.convert("CMYK"), "JPEG"),
    "profile": encode(PHOTO, "PNG", icc_profile=bytes(3000)),
    "EXIF": encode(PHOTO, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 300),
    "16 bits": cv2.imencode(".png", np.full((9, 7, 3), 999, np.uint16))[1].tobytes(),
    "LZW": encode(PHOTO, "TIFF", compression="tiff_lzw"),
}
PILLOWS = {form: encode(PHOTO, form) for form in ("GIF", "AVIF", "JPEG2000", "PPM")}
SEEDS = [*WHOLE.values(), *ANIMATED.values(), *ODD.values()]


@examples(150, 6_000)
def test_damaged_images(examples):
    def reads(content):
        found = survives(decode, content, (16, 8))
        assert isinstance(found, str) or found.shape == (16, 8, 3)
        survives(check_image, content, "x")
        return not isinstance(found, str)

    fuzz_files(examples, reads, [*SEEDS, *PILLOWS.values()])


@pytest.mark.parametrize("kind", [*ODD, *ANIMATED])
def test_odd_images_are_read(kind):
    assert decode((ODD | ANIMATED)[kind], (16, 8)).shape == (16, 8, 3)
    check_image((ODD | ANIMATED)[kind], "x")


def patched(content, place, numbers, form):
    return content[:place] + struct.pack(form, *numbers) + content[place + struct.calcsize(form) :]


def tiff(**tags):
    """Return a TIFF of one page with 4-byte tags."""
    numbers = {"width": 256, "height": 257, "bits": 258, "packing": 259, "kind": 262}
    numbers |= {"strip": 273, "rows": 278, "strip_bytes": 279}
    numbers |= {"tile_width": 322, "tile_height": 323, "tile": 324, "tile_bytes": 325}
    entries = sorted((numbers[name], value) for name, value in tags.items())
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(400)


def bombs():
    """Return small files that declare 50,000 x 50,000 pixels, or their format's maximum."""
    jpeg, webp = WHOLE["baseline"], encode(PHOTO, "WEBP")
    frame = jpeg.index(b"\xff\xc0")
    page = {"bits": 8, "packing": 1, "kind": 1, "strip": 200, "strip_bytes": 9}
    tiles = {"bits": 8, "packing": 1, "kind": 1, "tile": 200, "tile_bytes": 9}
    canvas = b"VP8X" + struct.pack("<II", 10, 0) + b"\x4f\xc3\0" * 2
    gif = encode(PHOTO, "GIF")
    place = gif.index(b"\x2c")  # the first frame; a frame may be larger than the canvas
    plane = encode(PHOTO, "JPEG2000").replace(
        struct.pack(">II", 96, 48), struct.pack(">II", 50_000, 50_000)
    )
    wide = encode(PHOTO, "JPEG2000").replace(
        struct.pack(">II", 48, 96), struct.pack(">II", 50_000, 50_000)
    )
    return {
        "GIF": patched(
            patched(gif, 6, (50_000, 50_000), "<HH"), place + 5, (50_000, 50_000), "<HH"
        ),
        "GIF, canvas": patched(gif, 6, (12_000, 12_000), "<HH"),
        "PNM": b"P6 50000 50000 255 " + bytes(99),
        "JPEG 2000": plane,
        "JPEG 2000, codestream": wide[wide.index(b"\xff\x4f\xff\x51") :],
        "PNG": png(50_000, 50_000, bytes(9)),
        "PNG, whole": png(12_000, 12_000, bytes(1501 * 12_000)),
        "JPEG": patched(jpeg, frame + 5, (50_000, 50_000), ">HH"),
        "progressive JPEG": patched(
            WHOLE["progressive"],
            WHOLE["progressive"].index(b"\xff\xc2") + 5,
            (50_000, 50_000),
            ">HH",
        ),
        "BMP": patched(WHOLE["BMP"], 18, (50_000, -50_000), "<ii"),
        "WebP": patched(webp, 26, (16_383, 16_383), "<HH"),
        "lossless WebP": patched(WHOLE["lossless WebP"], 21, (0x0FFFFFFF,), "<I"),
        "extended WebP": b"RIFF" + struct.pack("<I", 30) + b"WEBP" + canvas + webp[12:],
        "TIFF": tiff(width=50_000, height=50_000, rows=50_000, **page),
        "TIFF, tiles": tiff(width=9, height=9, tile_width=65_536, tile_height=65_536, **tiles),
    }


@pytest.mark.parametrize("kind", bombs())
def test_decompression_bombs_are_refused_with_the_numbers(kind):
    content = bombs()[kind]
    assert len(content) < 60_000
    refused("pixels, of which at most 100,000,000 are read): replace", decode, content, (16, 8))
    refused("pixels, of which at most 100,000,000 are read)", check_image, content, "x")


@pytest.mark.parametrize("chunk", [b"IDAT", b"IEND", b"tEXt"])
def test_a_chunk_of_four_gigabytes(chunk):
    """OpenCV allocates a chunk's declared length before it reads the chunk."""
    content = encode(PHOTO, "PNG") if chunk != b"tEXt" else png(8, 8, bytes(8))
    if chunk == b"tEXt":
        content = content[:33] + bytes(4) + b"tEXt" + bytes(4) + content[33:]
    place = content.index(chunk)
    content = content[: place - 4] + b"\xff\xff\xff\xf0" + content[place:]
    refused("cut off, or no image", decode, content, (16, 8))


def test_a_jpeg_of_very_many_scans():
    jpeg = WHOLE["progressive"]
    scan = jpeg.rindex(b"\xff\xda")
    refused("a JPEG of", decode, jpeg[:-2] + jpeg[scan:-2] * 300 + b"\xff\xd9", (16, 8))


@pytest.mark.parametrize("form", ["ICO", "TGA", "PCX", "EPS", "PDF"])
def test_formats_that_are_not_read(form):
    refused("cut off, or no image", decode, encode(PHOTO.resize((16, 16)), form), (16, 8))


def test_declared_sizes_are_the_decoded_sizes():
    """Compare the sizes with Pillow's."""
    for content in SEEDS:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            width, height = image.size
        shape = read_picture(content).pixels.shape[:2]
        assert sorted(shape) == sorted((height, width))
        assert (width, height) in image_headers._sizes(content)
