"""Small pictures in the page itself, each once, however often it is shown.

A picture is the background of a CSS class. So it needs neither a file nor a script, and a gallery
image that stands in twenty ranked lists takes the room of one.
"""

import base64
import hashlib
import html
import io

from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from batnet_jax.report.page import Markup

BOX = (80, 160)
"""Width and height in pixels that a picture is shrunk into: pedestrians are about 1:2."""
QUALITY = 78
"""WebP's: above, the size grows faster than what is seen of it at this size."""


class Thumbnails:
    """The pictures of a page."""

    def __init__(self):
        """Starts with none."""
        self._classes: dict[bytes, str] = {}
        self._rules: list[str] = []

    def add(self, image: UInt8[ndarray, "h w 3"], box: tuple[int, int] = BOX) -> str:
        """Takes in a picture, smaller where it does not fit the box; returns its class."""
        small = Image.fromarray(image)
        small.thumbnail(box, Image.Resampling.LANCZOS, reducing_gap=None)
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=QUALITY, method=4)
        digest = hashlib.sha256(buffer.getvalue()).digest()
        if digest not in self._classes:
            name = self._classes[digest] = f"t{len(self._classes)}"
            data = base64.b64encode(buffer.getvalue()).decode("ascii")
            self._rules.append(f'.{name}{{background-image:url("data:image/webp;base64,{data}")}}')
        return self._classes[digest]

    def styles(self) -> str:
        """The CSS of all classes."""
        return "\n".join([*self._rules, ""])


def picture(name: str, alt: str) -> Markup:
    """Shows a picture that `Thumbnails.add` has named.

    Args:
      name: the class.
      alt: what it shows, for those who do not see it.
    """
    return Markup(f'<span class="thumb {name}" role="img" aria-label="{html.escape(alt)}"></span>')
