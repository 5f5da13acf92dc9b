"""Thumbnails embedded in the page, each stored once however often it is shown.

A thumbnail is the background image of a CSS class. It needs neither a file nor a script, and a
gallery image in twenty ranked lists takes the space of one.
"""

import base64
import hashlib
import io
import math

from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from batnet_jax.report.page import Markup, escape

BOX = (112, 224)
"""Largest width and height in pixels of a pedestrian, about 1:2. Others get as many pixels."""
QUALITY = 78
"""WebP quality: a higher one adds size, but no visible detail at thumbnail size."""


class Thumbnails:
    """The thumbnails of a page."""

    def __init__(self):
        self._classes: dict[bytes, str] = {}
        self._rules: list[str] = []

    def add(self, image: UInt8[ndarray, "h w 3"], box: tuple[int, int] = BOX) -> str:
        """Add an image, shrunk to the area of a box; return the CSS class of its thumbnail.

        The thumbnail has the image's own shape.
        """
        small = Image.fromarray(image)
        scale = min(1, math.sqrt(math.prod(box) / math.prod(small.size)))
        scale = min(scale, 2 * max(box) / max(small.size))  # a long strip
        size = (max(1, round(scale * small.width)), max(1, round(scale * small.height)))
        small = small.resize(size, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=QUALITY, method=4)
        digest = hashlib.sha256(buffer.getvalue()).digest()
        if digest not in self._classes:
            name = self._classes[digest] = f"t{len(self._classes)}"
            data = base64.b64encode(buffer.getvalue()).decode("ascii")
            self._rules.append(
                f".{name}{{aspect-ratio:{size[0]}/{size[1]};"
                f'background-image:url("data:image/webp;base64,{data}")}}'
            )
        return self._classes[digest]

    def styles(self) -> str:
        """Return the CSS of all classes."""
        return "\n".join([*self._rules, ""])


def picture(name: str, alt: str) -> Markup:
    """Make the element that shows a thumbnail.

    Args:
      name: the class that `Thumbnails.add` returned.
      alt: a description for screen readers.
    """
    return Markup(f'<span class="thumb {name}" role="img" aria-label="{escape(alt)}"></span>')
