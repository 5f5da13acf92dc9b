"""The images that requests send: read within limits, checked before they are decoded, cropped."""

import asyncio
import io
import re
import sys
import warnings

import numpy as np
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from batnet_jax.data.files.image_headers import is_cut_off
from batnet_jax.data.files.pixels import describe_transparent, read_picture
from batnet_jax.data.loading.loader import decode_into, resize_into
from batnet_jax.data.loading.user_arrays import cut_boxes
from batnet_jax.errors import UserError
from batnet_jax.modes.serve.turns import client_of

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 50_000_000
BODY_SECONDS = 60
"""Time to send an image."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
Box = tuple[float, float, float, float]


def parse_number(text: str) -> int | None:
    """Return decimal digits as a number; None for other text and huge numbers."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


async def read_body(request: Request) -> bytes:
    """Read the body of a request; stop as soon as it is too long.

    Raises: HTTPException if the body is too long, takes too long or breaks off.
    """
    too_long = HTTPException(413, f"the file is too large: at most {MAX_BYTES >> 20} MB")
    declared = parse_number(request.headers.get("content-length", "0"))
    if declared is None or declared > MAX_BYTES:
        raise too_long
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                content += part
                if len(content) > MAX_BYTES:
                    raise too_long
    except TimeoutError as error:
        raise HTTPException(408, f"the upload took longer than {BODY_SECONDS} s") from error
    except ClientDisconnect as error:
        size = f"{len(content):,} bytes"
        print(f"{client_of(request)}: an upload broke off after {size}", file=sys.stderr)
        raise HTTPException(400, "the upload broke off") from error
    return bytes(content)


def check_upload(content: bytes) -> None:
    """Check the header of an uploaded image before the image is decoded.

    Raises: HTTPException if the image has another format, is too large or is cut off.
    """
    unknown = f"this is not an image of a known format: {', '.join(FORMATS)}"
    too_large = f"the image is too large: at most {MAX_PIXELS // 10**6} megapixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise HTTPException(413, too_large) from error
    except Exception as error:  # Pillow raises many types of errors for damaged headers
        raise HTTPException(415, unknown) from error
    if width * height > MAX_PIXELS:
        raise HTTPException(413, too_large)
    if is_cut_off(content):
        raise HTTPException(422, "the image is cut off")


def parse_box(text: str | None) -> Box | None:
    """Return the parameter `box` as x0, y0, x1, y1; None if it is not given.

    Raises: HTTPException for other text.
    """
    if not text:
        return None
    parts = text.split(",")
    if len(parts) != 4 or not all(re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?", p) for p in parts):
        raise HTTPException(400, "box must be x0,y0,x1,y1 in pixels of the upright image")
    x0, y0, x1, y1 = map(float, parts)
    return x0, y0, x1, y1


def decode_query(content: bytes, box: Box | None, size: tuple[int, int], alpha: str):
    """Decode an uploaded image, or a part of it, at the size of the network's input.

    Args:
      content: of the file.
      box: the part, in pixels of the upright image; None for the whole image.
      size: (height, width).
      alpha: see `config.data.alpha`.
    Returns: [height, width, 3] uint8, and a note about transparency, "" = no note.
    Raises: HTTPException if the image cannot be decoded, or the box is outside.
    """
    check_upload(content)
    image = np.empty((*size, 3), np.uint8)
    try:
        if box is None:
            transparent = decode_into(content, image, "the image", alpha)
        else:
            picture = read_picture(content, alpha)
            (part,) = cut_boxes(picture.pixels, [box], channels="rgb", alpha=alpha)
            resize_into(part, image)
            transparent = picture.transparent
    except UserError as error:
        raise HTTPException(422, str(error)) from error
    return image, describe_transparent(1, 1, alpha) if transparent else ""
