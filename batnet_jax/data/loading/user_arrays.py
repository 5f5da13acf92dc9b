"""Images that a caller passes: arrays, tensors, Pillow images, bytes, paths, boxes of a frame."""

import glob
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from batnet_jax.data.files.pixels import WHITE, Picture, from_pillow, lay, read_picture
from batnet_jax.data.files.safe_open import check_local
from batnet_jax.data.files.tree import is_image_name
from batnet_jax.data.loading.loader import resize_into, say_transparent
from batnet_jax.data.loading.name_list import NameList
from batnet_jax.data.loading.user_images import ImageFiles, list_files
from batnet_jax.errors import UserError, one_line

BYTES = (bytes, bytearray, memoryview)
"""The content of a file."""
CHANNELS = ("rgb", "bgr")
"""Orders of the colours of an array; OpenCV has the second."""


class ArrayStore:
    """Images in memory, with the methods of `ImageStore` that embedding uses."""

    def __init__(
        self,
        images: Sequence[Any],
        image_size: tuple[int, int],
        *,
        channels: str = "rgb",
        alpha: str = WHITE,
    ):
        """Keep the images; `batch` checks them.

        Args:
          images: arrays [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], uint8 or uint16, or what gives
            such an array; images of Pillow; the bytes of image files; or paths.
          image_size: (height, width) in pixels.
          channels: the order of an array's colours, one of `CHANNELS`.
          alpha: the treatment of transparent pixels, one of `pixels.ALPHA`.
        """
        self._images = images
        self._image_size = (int(image_size[0]), int(image_size[1]))
        self._channels = channels
        self._alpha = alpha
        self._transparent = np.zeros(len(images), bool)

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Return the images at `indices` ([b] int) as [b, height, width, 3] uint8, RGB.

        Raises: UserError if an array is not an image.
        """
        images = np.empty((len(indices), *self._image_size, 3), np.uint8)
        for i, out in zip(indices.tolist(), images, strict=True):
            name = f"image {i}"
            picture = to_picture(self._images[i], name, channels=self._channels, alpha=self._alpha)
            self._transparent[i] = picture.transparent
            resize_into(picture.pixels, out)
        return images

    def close(self) -> None:
        """Say how many images were transparent."""
        say_transparent(int(self._transparent.sum()), len(self), self._alpha)


def to_picture(image: Any, name: str, *, channels: str = "rgb", alpha: str = WHITE) -> Picture:
    """Convert an image in memory to RGB, as `decode` does with a file.

    Grey is repeated, and 16 bits are cut to the upper 8.

    Args:
      image: see `ArrayStore`.
      name: for messages.
      channels: the order of an array's colours, one of `CHANNELS`.
      alpha: the treatment of transparent pixels, one of `pixels.ALPHA`.

    Raises: UserError if the array is not an image, or a file cannot be read.
    """
    if isinstance(image, str | Path):
        return _read_file(ImageFiles([str(image)]).encoded(0), f"'{image}'", alpha)
    if isinstance(image, BYTES):
        return _read_file(bytes(image), name, alpha)
    if isinstance(image, Image.Image):
        _require_pixels(image.size, name)
        if channels != "rgb":
            raise UserError(f"{name} is Pillow's, which knows its colours: leave channels out")
        if image.mode.startswith("I;16"):
            _require_upper_bits(np.asarray(image), name)
        try:
            return from_pillow(image, alpha)
        except UserError as error:
            raise UserError(f"{name} is {error}") from error
    array = _as_array(image, name)
    if array.ndim == 0:
        raise UserError(f"{name} is {type(image).__name__}, {_what_instead(image)}")
    _require_pixels(array.shape, name)
    array = array[:, :, None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        turned = "; channels come last, as in np.moveaxis(image, 0, -1)" if first else ""
        raise UserError(
            f"{name} has shape {np.shape(image)}: must be [height, width, 3], or of 1 or 4 "
            f"channels{turned}"
        )
    if array.dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"{name} has dtype {array.dtype}: must be uint8, 0 to 255 (or uint16); scale and"
            " convert it, as in (255 * image).round().astype(np.uint8)"
        )
    if channels == "bgr" and array.shape[2] > 1:
        array = array[:, :, [2, 1, 0, 3][: array.shape[2]]]
    if array.dtype == np.uint16:
        _require_upper_bits(array[..., :3], name)
    if array.shape[2] == 4:
        return lay(array, alpha)
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    array = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array
    return Picture(np.ascontiguousarray(array), False)


def _read_file(content: bytes, name: str, alpha: str) -> Picture:
    """Decode the content of a file.

    Raises: UserError with the name.
    """
    try:
        return read_picture(content, alpha)
    except UserError as error:
        raise UserError(f"{name} cannot be decoded as an image ({error})") from error


def _require_pixels(shape: tuple[int, ...], name: str) -> None:
    """Refuse an image without pixels.

    Raises: UserError.
    """
    if 0 in shape:
        raise UserError(
            f"{name} is empty, of shape {shape}: leave it out; a crop is empty where its box lies "
            "outside the image, or has no height or width"
        )


def _what_instead(given: Any) -> str:
    """Return the end of a message about an object that is not an image: what to give instead."""
    if given is None:
        return "which cv2.imread returns for a file that it cannot read: check the path"
    if isinstance(given, io.IOBase):
        return "an open file: give its path, or its content, as read() returns it"
    return "not an image: give paths, a folder, arrays [height, width, 3] or Pillow's images"


def _require_upper_bits(array: np.ndarray, name: str) -> None:
    """Refuse an image of 16 bits whose numbers fit into 8 bits: its upper 8 bits are black.

    Raises: UserError.
    """
    most = int(array.max())
    if 0 < most < 256:
        raise UserError(
            f"{name} has dtype {array.dtype} and no number above {most}, of which the upper 8 bits "
            "are black: give image.astype(np.uint8), or scale to 65535"
        )


def _as_array(given: Any, name: str) -> np.ndarray:
    """Return an array of NumPy with the bytes in this machine's order.

    Raises: UserError if the object cannot give one, such as a tensor on a GPU.
    """
    try:
        array = np.asarray(given)
    except Exception as error:  # the array protocol of any library
        raise UserError(
            f"{name}, {type(given).__name__}, cannot become an array of NumPy: {one_line(error)}"
        ) from error
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def is_array(given: Any) -> bool:
    """Return whether an object is a NumPy array or follows the array protocol, as tensors do."""
    return any(hasattr(given, name) for name in ("__array__", "__array_interface__"))


def paths_or_arrays(given: Any) -> tuple[Any, Sequence[Any]]:
    """Return a caller's images, either as paths or as the input of an `ArrayStore`.

    Returns: (paths, []) if all are paths, else (None, images). `ImageFiles` are returned in the
      place of paths.

    Raises: UserError if something is not an image, or is ambiguous, or if a pattern has no match.
    """
    if isinstance(given, str | Path):
        check_local(given)
        matches = match_pattern(given)
        return list_files(Path(given)) if matches is None else matches, []
    if isinstance(given, NameList | ImageFiles):
        return given, []
    if isinstance(given, (Image.Image, *BYTES)):
        return None, [given]
    if is_array(given):
        array = _as_array(given, "images")
        if array.dtype.kind in "US":
            return [os.fsdecode(name) for name in np.atleast_1d(array).tolist()], []
        if array.dtype.kind == "O":  # a column of a table
            return paths_or_arrays(np.atleast_1d(array).tolist())
        return None, _split_array(array)
    if not isinstance(given, Iterable) or isinstance(given, io.IOBase):
        raise UserError(f"images are {type(given).__name__}, {_what_instead(given)}")
    items: list[Any] = []
    for item in given:
        matches = match_pattern(item) if isinstance(item, str | Path) else None
        items += [item] if matches is None else matches
    if items and all(isinstance(item, str | Path) for item in items):
        return [str(item) for item in items], []
    return None, items


def match_pattern(name: str | Path) -> list[str] | None:
    """Return the images that a pattern such as `photos/**/*.jpg` matches, sorted.

    Returns: None if the name has none of `*?[`, or is itself the name of a file or folder.
    Raises: UserError if no image matches.
    """
    pattern = os.path.expanduser(name)
    if not glob.has_magic(pattern) or os.path.lexists(pattern):
        return None
    found = [path for path in glob.iglob(pattern, recursive=True) if is_image_name(path)]
    if not found:
        raise UserError(f"no image matches '{name}': correct the pattern, or name a folder")
    return sorted(found)


def _split_array(array: np.ndarray) -> list[np.ndarray]:
    """Return the images in one array: itself, or those along its first axis.

    Raises: UserError for [3, h, w] and [4, h, w], which may be one image or several grey ones.
    """
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4)):
        return [array]
    if array.ndim == 3 and array.shape[0] in (3, 4):
        raise UserError(
            f"images have shape {array.shape}, which may be {array.shape[0]} grey images, or one "
            "image with its channels first: give list(images), or np.moveaxis(images, 0, -1)"
        )
    return list(array)


def cut_boxes(frame: Any, boxes: Any, *, channels: str, alpha: str) -> list[np.ndarray]:
    """Cut boxes out of one frame.

    Args:
      frame: a path, an array or an image of Pillow; or one of them in a list.
      boxes: [n, 4] numbers: x0, y0, x1, y1 in pixels of the upright frame, x1 and y1 excluded. They
        are rounded, and cut at the frame's edges.
      channels: the order of an array's colours, one of `CHANNELS`.
      alpha: the treatment of transparent pixels, one of `pixels.ALPHA`.

    Returns: n arrays [h, w, 3] uint8, RGB.

    Raises: UserError if the frame is not one image, or a box is empty, outside, or not 4 numbers.
    """
    paths, arrays = paths_or_arrays(frame)
    count = len(arrays) if paths is None else len(paths)
    if count != 1:
        raise UserError(f"boxes are cut out of one frame, and images are {count}: give one")
    if paths is None:
        picture = to_picture(arrays[0], "the frame", channels=channels, alpha=alpha)
    else:
        try:
            picture = read_picture(ImageFiles(paths).encoded(0), alpha)
        except UserError as error:
            raise UserError(f"the frame '{paths[0]}' cannot be read ({error})") from error
    say_transparent(int(picture.transparent), 1, alpha)
    height, width = picture.pixels.shape[:2]
    checked = _check_boxes(boxes)
    if len(checked) and np.abs(checked).max() <= 1 < max(height, width):
        raise UserError(
            f"boxes lie between {checked.min():g} and {checked.max():g}: must be in pixels of the "
            f"frame of {width} x {height}; multiply fractions by its width and height"
        )
    return [cut_box(picture.pixels, box, f"box {number}") for number, box in enumerate(checked)]


def cut_box(frame: np.ndarray, box: np.ndarray, name: str) -> np.ndarray:
    """Cut a box out of a frame [h, w, 3]; see `cut_boxes`.

    Args:
      frame: pixels.
      box: [4] float.
      name: of the box, for messages.

    Raises: UserError if the box is empty or outside.
    """
    height, width = frame.shape[:2]
    if not (box[0] < box[2] and box[1] < box[3]):
        raise UserError(
            f"{name}, {box.tolist()}, has no area: must be x0, y0, x1, y1 with x0 < x1 and y0 < y1 "
            "(not width and height)"
        )
    x0, y0, x1, y1 = np.rint(box.clip(0, [width, height, width, height])).astype(int).tolist()
    if x0 >= x1 or y0 >= y1:
        raise UserError(
            f"{name}, {box.tolist()}, holds no pixel of the frame of {width} x {height}: leave it "
            "out"
        )
    return frame[y0:y1, x0:x1]


def _check_boxes(boxes: Any) -> np.ndarray:
    """Return boxes as [n, 4] float64.

    Raises: UserError if they are not finite numbers of this shape.
    """
    if isinstance(boxes, Iterator):
        boxes = list(boxes)
    try:
        array = np.asarray(boxes, np.float64)
    except Exception as error:  # ragged lists, or the array protocol of any library
        raise UserError(f"boxes are not numbers [n, 4]: {one_line(error)}") from error
    array = array.reshape(0, 4) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] != 4 or not np.isfinite(array).all():
        raise UserError(
            f"boxes have shape {array.shape}: must be [n, 4] finite numbers, x0, y0, x1, y1 each"
        )
    return array
