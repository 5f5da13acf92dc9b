"""Steps of a few sizes for the boxes of a stream of frames, compiled beforehand."""

from collections.abc import Callable, Sequence

import numpy as np

from batnet_jax.data.loading.loader import resize_into
from batnet_jax.errors import UserError
from batnet_jax.runtime import devices

MAX_BOXES = 32
"""The most boxes that one step is compiled for."""


class BoxSteps:
    """Steps of 1, 2, 4, ... boxes.

    Attributes:
      sizes: boxes of each step, smallest first; multiples of the devices of this process.
    """

    def __init__(
        self, embed: Callable[[np.ndarray], np.ndarray], image_size: tuple[int, int], most: int
    ):
        """Compile the steps.

        Args:
          embed: returns the features [n, d] of images [n, h, w, 3] bytes; compiles for each n.
          image_size: (h, w).
          most: boxes of the largest step, 1 to `MAX_BOXES`.

        Raises: UserError if `most` is out of range.
        """
        if not 1 <= most <= MAX_BOXES:
            raise UserError(f"most={most} must be 1 to {MAX_BOXES}: more boxes take several steps")
        counts = [2**power for power in range(most.bit_length()) if 2**power < most] + [most]
        self.sizes = tuple(sorted({devices.round_up(count) for count in counts}))
        self._embed, self._image_size = embed, image_size
        for size in self.sizes:
            embed(np.zeros((size, *image_size, 3), np.uint8))

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Return the features [n, d] of crops [h, w, 3] bytes, by the smallest steps that fit.

        Args:
          crops: of any sizes; resized to the network's.
        """
        largest, parts = self.sizes[-1], []
        for start in range(0, max(len(crops), 1), largest):
            part = crops[start : start + largest]
            size = next(size for size in self.sizes if size >= len(part))
            images = np.zeros((size, *self._image_size, 3), np.uint8)
            for crop, image in zip(part, images, strict=False):
                resize_into(crop, image)
            parts.append(self._embed(images)[: len(part)])
        return np.concatenate(parts)
