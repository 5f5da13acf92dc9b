"""Decodes image files and Pillow images to RGB, and lays transparent pixels on one colour.

OpenCV decodes JPEG, PNG, BMP, WebP and TIFF. Pillow decodes GIF, AVIF, JPEG 2000 and PNM, and
HEIC if the package pillow-heif is installed. Pillow also decodes every image with transparency,
because it knows the ways in which formats store transparency.
"""

import io
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from batnet_jax.data.files import heic
from batnet_jax.data.files.image_headers import (
    MAX_PIXELS,
    check_pixels,
    check_size,
    has_alpha,
    pillow_format,
)
from batnet_jax.errors import UserError, one_line

WHITE, DROP = "white", "drop"
GROUNDS = {WHITE: 255, "grey": 128, "black": 0}
"""Grey level of each colour that transparent pixels are laid on."""
ALPHA = (*GROUNDS, DROP)
"""The treatments of transparent pixels; DROP shows the colours that they hide."""
_PILLOW = ("PNG", "BMP", "WEBP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")
_SIXTEEN_BITS = ("PPM", "PNG")
"""Formats whose images of mode I hold 0 to 65535."""
_BAND = 2**20
"""Pixels that are blended at a time, because blending takes 14 bytes a pixel."""


class Picture(NamedTuple):
    """A decoded image."""

    pixels: np.ndarray
    """[h, w, 3] uint8, RGB."""
    transparent: bool
    """Whether the image has a pixel that is not opaque; if it was dropped, whether it may have."""


def read_picture(encoded: bytes, alpha: str = WHITE) -> Picture:
    """Decode an image file, upright as its Exif data say; grey is repeated.

    Args:
      encoded: the bytes of a file in one of `image_headers.FORMATS`.
      alpha: one of `ALPHA`.

    Raises: UserError with only the reason, for the caller to add the filename, if the file is
      damaged, in another format, or declares more than `MAX_PIXELS`.
    """
    check_size(encoded)
    transparent = has_alpha(encoded)
    if pillow_format(encoded) is not None:
        return _read_with_pillow(encoded, alpha)
    if transparent and alpha != DROP:
        try:
            return _read_with_pillow(encoded, alpha)
        except UserError:  # a kind of TIFF or BMP that only OpenCV reads
            return _read_with_opencv(encoded, alpha)
    return Picture(_decode(encoded, cv2.IMREAD_COLOR), transparent)


def _decode(encoded: bytes, flag: int) -> np.ndarray:
    """Decode with OpenCV; return RGB or RGBA.

    Raises: UserError if OpenCV cannot.
    """
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flag)
    except cv2.error:  # OpenCV's own limits of the size, too
        image = None
    if image is None:
        raise UserError("cut off, or no image")
    if image.ndim == 3 and image.shape[2] in (3, 4):
        way = cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
        cv2.cvtColor(image, way, dst=image)  # in place: allocating takes as long as resizing
    return image


def _read_with_opencv(encoded: bytes, alpha: str) -> Picture:
    image = _decode(encoded, cv2.IMREAD_UNCHANGED)
    if image.ndim == 3 and image.shape[2] == 4 and image.dtype in (np.uint8, np.uint16):
        return lay(image, alpha)
    return Picture(_decode(encoded, cv2.IMREAD_COLOR), False)


def _read_with_pillow(encoded: bytes, alpha: str) -> Picture:
    formats = _PILLOW
    if heic.reads_heic():
        heic.register()
        formats = (*_PILLOW, "HEIF")
    try:
        with Image.open(io.BytesIO(encoded), formats=formats) as image:
            check_pixels(*image.size)
            image.load()
            return from_pillow(image, alpha)
    except (UserError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"too many pixels, of which at most {MAX_PIXELS:,} are read") from error
    except Exception as error:  # damaged files raise many types
        raise UserError("cut off, or no image") from error


def from_pillow(image: Image.Image, alpha: str = WHITE) -> Picture:
    """Convert a Pillow image of any mode to RGB, and turn it upright.

    Args:
      image: of any mode with a known range.
      alpha: one of `ALPHA`.

    Raises: UserError with only the reason if the numbers of the image have no known range (modes
      I and F) or the image cannot be read.
    """
    mode, form = image.mode, image.format
    if mode == "F" or (mode == "I" and form not in _SIXTEEN_BITS):
        raise UserError(
            f"Pillow's, of mode {mode}, whose numbers have no known range: scale them to 0 to 255, "
            "as in Image.fromarray((255 * (a - a.min()) / np.ptp(a)).astype(np.uint8))"
        )
    try:
        image = image.convert("LA") if mode == "La" else image
        # `exif_transpose` would copy an image that is upright.
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if mode == "I" or mode.startswith("I;16"):
            return _from_sixteen_bits(image, alpha)
        if image.has_transparency_data:
            return lay(np.asarray(_as_mode(image, "RGBA")), alpha)
        return Picture(np.asarray(_as_mode(image, "RGB")), False)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a damaged file, or a mode without a conversion
        raise UserError(
            f"Pillow's, of mode {mode}, and cannot be read: {one_line(error)}"
        ) from error


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image; Pillow would copy an image that has the mode."""
    return image if image.mode == mode else image.convert(mode)


def _from_sixteen_bits(image: Image.Image, alpha: str) -> Picture:
    """Convert a grey image of 16 bits; PNG may declare one grey level transparent."""
    grey = np.asarray(image).astype(np.uint16)
    hidden = image.info.get("transparency")
    opaque = np.full_like(grey, 65535) if hidden is None else np.where(grey == hidden, 0, 65535)
    return lay(np.stack([grey, grey, grey, opaque.astype(np.uint16)], axis=-1), alpha)


def lay(image: np.ndarray, alpha: str = WHITE) -> Picture:
    """Lay an image with transparency on one colour.

    Args:
      image: [h, w, 4] uint8 or uint16; of uint16 only the upper 8 bits count. The fourth channel
        is the opacity, and the colours are not multiplied by it.
      alpha: one of `ALPHA`.
    """
    if image.dtype != np.uint8:
        image = (image >> 8).astype(np.uint8)
    colours, opacity = image[:, :, :3], image[:, :, 3:]
    transparent = bool((opacity < 255).any())
    if alpha == DROP or not transparent:
        return Picture(np.ascontiguousarray(colours), transparent)
    mixed = np.empty_like(colours, order="C")
    rows = max(1, _BAND // max(1, image.shape[1]))
    for top in range(0, len(image), rows):
        band = slice(top, top + rows)
        share = opacity[band].astype(np.uint16)
        sums = colours[band] * share + GROUNDS[alpha] * (255 - share) + 127  # at most 65152
        mixed[band] = sums // 255
    return Picture(mixed, True)


def describe_transparent(number: int, total: int, alpha: str) -> str:
    """Return a line with the number of transparent images and their treatment."""
    done = "the colours under it are read" if alpha == DROP else f"laid on {alpha}"
    few = "the image has" if total == 1 else f"{number:,} of {total:,} images have"
    return f"{few} transparency: {done}"
