"""Images outside a data set: files that a user names, or arrays in memory."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from batnet_jax.data.files.image_headers import is_cut_off
from batnet_jax.data.files.safe_open import check_local, read_whole
from batnet_jax.data.files.tree import IMAGE_SUFFIXES, open_tree
from batnet_jax.data.loading.loader import resize_into
from batnet_jax.errors import UserError


class ImageFiles:
    """Image files named by their paths; a source for an `ImageStore`."""

    def __init__(self, filenames: Sequence[str]):
        """Keep the paths; no file is read."""
        self.filenames = list(filenames)

    def __len__(self) -> int:
        return len(self.filenames)

    def encoded(self, i: int) -> bytes:
        """Return the bytes of file i; safe to call from several threads.

        Raises: UserError if the file cannot be read, is too large or is cut off.
        """
        name = self.filenames[i]
        try:
            content = read_whole(name)
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"'{name}' cannot be read ({reason}): restore or leave it out"
            ) from error
        if is_cut_off(content):
            raise UserError(f"'{name}' is cut off: restore or leave it out")
        return content


def list_files(place: Path) -> list[str]:
    """List the paths of the images in a folder or a list.

    Args:
      place: a folder (for all images below it, sorted by name), an image, or a text file with one
        path a line, relative to the text file; empty lines and lines with # at the start are
        skipped.

    Returns: paths that can be opened from the current folder.

    Raises: UserError if `place` does not exist or holds no image.
    """
    if place.is_dir():
        names = open_tree(place).images()
        if not names:
            wanted = ", ".join(IMAGE_SUFFIXES)
            raise UserError(f"'{place}' holds no image ({wanted}): name another folder")
        return [str(place / name) for name in names]
    if not place.is_file():
        raise UserError(f"'{place}' does not exist: name a folder, an image, or a list of images")
    if place.name.lower().endswith(IMAGE_SUFFIXES):
        return [str(place)]
    try:
        lines = read_whole(place).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"'{place}' is neither an image with a known suffix nor a text file with a path a line"
        ) from error
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise UserError(f"'{place}' lists no image: write one path a line")
    return [str(place.parent / name) for name in names]


class ArrayStore:
    """Images in memory, with the methods of `ImageStore` that embedding uses."""

    def __init__(self, images: Sequence[Any], image_size: tuple[int, int]):
        """Keep the images; `batch` checks them.

        Args:
          images: arrays [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], uint8 or uint16, RGB; or images
            of Pillow.
          image_size: (height, width) in pixels.
        """
        self._images = images
        self._image_size = (int(image_size[0]), int(image_size[1]))

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Return the images at `indices` ([b] int) as [b, height, width, 3] uint8, RGB.

        Raises: UserError if an array is not an image.
        """
        images = np.empty((len(indices), *self._image_size, 3), np.uint8)
        for i, out in zip(indices.tolist(), images, strict=True):
            resize_into(to_rgb(self._images[i], f"image {i}"), out)
        return images

    def close(self) -> None:
        """Do nothing; see `ImageStore`."""


def to_rgb(image: Any, name: str) -> np.ndarray:
    """Convert an image in memory to [h, w, 3] uint8, as `decode` does with a file.

    Grey is repeated, transparency is dropped, and 16 bits are cut to the upper 8.

    Raises: UserError if the array is not an image.
    """
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)
        image = image if image.mode in ("L", "RGB", "RGBA", "I;16") else image.convert("RGB")
    array = np.asarray(image)
    array = array[:, :, None] if array.ndim == 2 else array
    if 0 in array.shape:
        raise UserError(
            f"{name} is empty, of shape {np.shape(image)}: leave it out; a crop is empty where its "
            "box lies outside the image, or has no height or width"
        )
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise UserError(
            f"{name} has shape {np.shape(image)}: must be [height, width, 3], or of 1 or 4 channels"
        )
    if array.dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"{name} has dtype {array.dtype}: must be uint8, 0 to 255 (or uint16); scale and"
            " convert it, as in (255 * image).round().astype(np.uint8)"
        )
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    array = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[:, :, :3]
    return np.ascontiguousarray(array)


def paths_or_arrays(given: Any) -> tuple[list[str] | None, Sequence[Any]]:
    """Tell the paths or arrays that a caller passes as images apart.

    Returns: (paths, []) or (None, arrays).

    Raises: UserError if they are neither, or a mixture.
    """
    if isinstance(given, str | Path):
        check_local(given)
        return list_files(Path(given)), []
    if isinstance(given, Image.Image):
        return None, [given]
    if hasattr(given, "ndim"):  # an array of NumPy or JAX
        array = np.asarray(given)
        if array.dtype.kind in "US":
            return [str(name) for name in array.tolist()], []
        one = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
        return None, list(array[None] if one else array)
    if not isinstance(given, Iterable):
        raise UserError(f"images are {type(given).__name__}: give paths, arrays or a folder")
    items = list(given)
    named = [isinstance(item, str | Path) for item in items]
    if all(named) and items:
        return [str(item) for item in items], []
    if any(named):
        raise UserError("images are paths and arrays, mixed: give one or the other")
    return None, items
