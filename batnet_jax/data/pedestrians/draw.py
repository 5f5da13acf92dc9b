"""Draws a pedestrian: a pure function of (seed, pid, camera, index) and the picture's size.

All machines draw the same pixels. Random numbers come from a hash (`dice`), shapes are filled with
integer arithmetic (`raster`), and camera effects are integer look-up tables and filters (`camera`).
Floating-point arrays are not used: vectorised sines and powers differ in the last bit between
processors, and Pillow's polygons differ between its versions. Pictures are drawn at `OVERSAMPLING`
times their size and averaged. Only the bytes of `draw_jpeg` depend on a library, libjpeg, with
fixed quality and subsampling.

The task rewards learned features and defeats colour histograms. The constants here and in
`identity`, `figure`, `scene` and `style` set its difficulty.
"""

import io

import numpy as np
from PIL import Image

from batnet_jax.data.pedestrians.camera import expose, make_camera
from batnet_jax.data.pedestrians.dice import Dice
from batnet_jax.data.pedestrians.figure import draw_person, make_pose
from batnet_jax.data.pedestrians.identity import make_identity
from batnet_jax.data.pedestrians.plan import (
    SIZES,
    SPLITS,
    Shot,
    Size,
    make_shot,
    plan,
    read_shot,
)
from batnet_jax.data.pedestrians.raster import SUB, Canvas
from batnet_jax.data.pedestrians.scene import OCCLUDERS, backdrop, occlude
from batnet_jax.data.pedestrians.style import STYLES, Style

__all__ = [
    "LAYERS",
    "SIZES",
    "SPLITS",
    "Shot",
    "Size",
    "draw_image",
    "draw_jpeg",
    "draw_layers",
    "make_shot",
    "plan",
    "read_shot",
]

LAYERS = {"background": 0, "person": 1, "occluder": 2, "passer-by": 3}
"""The values of `draw_layers`. The person's bags belong to the person, and shadows to whatever they
fall on. An occluder may be another person, in front; a passer-by is one behind."""

OVERSAMPLING = 2
FIGURE = 98  # percent of the picture's height: a person of average stature

_STRANGER = 1_000_000  # the first identity of passers-by and distractors


def draw_image(
    pid: int, camera: int, index: int, style: str = "easy", *, seed: int, height: int, width: int
) -> np.ndarray:
    """Draw the picture of one shot of a plan.

    Args:
      pid: the identity; 0 = a distractor, another person for each index.
      camera: from 1.
      index: the number of the image among the identity's images.
      style: a key of `STYLES`.
      seed: the seed of the data set.
      height: in pixels.
      width: in pixels.

    Returns: [height, width, 3] uint8 RGB.
    """
    options = STYLES[style]
    canvas = _draw_scene((pid, camera, index), options, seed, height, width)
    # Separate dice, so that an occluder does not change the noise.
    shutter = Dice(seed, "shutter", pid, camera, index)
    eye = make_camera(seed, camera, options)
    return expose(_reduce(canvas.pixels), eye, shutter, seed, options)


def draw_layers(
    pid: int, camera: int, index: int, style: str = "easy", *, seed: int, height: int, width: int
) -> np.ndarray:
    """Draw what each pixel of `draw_image`, with the same arguments, shows.

    Returns: [height, width] uint8, values of `LAYERS`: the layer that covers most of the pixel.
    """
    layers = np.full((height * OVERSAMPLING, width * OVERSAMPLING), LAYERS["background"], np.uint8)
    _draw_scene((pid, camera, index), STYLES[style], seed, height, width, layers)
    return _most_common(layers)


def draw_jpeg(
    pid: int, camera: int, index: int, style: str = "easy", *, seed: int, height: int, width: int
) -> bytes:
    """Draw the same picture as a JPEG file of the camera's quality; return its bytes."""
    picture = draw_image(pid, camera, index, style, seed=seed, height=height, width=width)
    file = io.BytesIO()
    quality = make_camera(seed, camera, STYLES[style]).quality
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def _draw_scene(
    key: tuple[int, int, int],
    style: Style,
    seed: int,
    height: int,
    width: int,
    layers: np.ndarray | None = None,
) -> Canvas:
    """Draw a shot at `OVERSAMPLING` times its size, before the camera's effects.

    If `layers`, the background of the same size, is given, the layers are drawn into it.
    """
    pid, camera, index = key
    tall, wide = height * OVERSAMPLING, width * OVERSAMPLING
    eye = make_camera(seed, camera, style)
    dice = Dice(seed, "image", pid, camera, index)
    view = _crop(dice, backdrop(seed, camera, tall, wide, style.vivid), tall, wide)
    canvas = Canvas(view, eye.light, layers)
    if dice.chance(style.passer_by):
        behind = canvas.on_layer(LAYERS["passer-by"])
        _stranger(behind, dice, seed, eye.pitch, aside=(46, 60), scale=(60, 88))
    person = make_identity(seed, pid if pid else _STRANGER + index, style.family)
    zoom = FIGURE * eye.zoom * (100 + dice.spread(style.zoom)) // 100
    figure = tall * SUB * zoom // 10_000 * person.stature // 100
    across = wide // 2 + wide * dice.spread(style.shift_across) // 100
    ground = tall * (97 + dice.spread(style.shift_down)) // 100
    pose = make_pose(
        dice, pitch=eye.pitch, top=(across * SUB, ground * SUB - figure), height=figure
    )
    draw_person(canvas.on_layer(LAYERS["person"]), person, pose)
    if dice.chance(style.occlusion):
        front = canvas.on_layer(LAYERS["occluder"])
        kind = dice.choose(OCCLUDERS)
        if kind == "person":
            _stranger(front, dice, seed, eye.pitch, aside=(42, 54), scale=(90, 105))
        else:
            occlude(front, dice, kind)
    return canvas


def _crop(dice: Dice, view: np.ndarray, tall: int, wide: int) -> np.ndarray:
    top, left = dice.below(view.shape[0] - tall), dice.below(view.shape[1] - wide)
    return view[top : top + tall, left : left + wide].copy()


def _stranger(
    canvas: Canvas,
    dice: Dice,
    seed: int,
    pitch: int,
    *,
    aside: tuple[int, int],
    scale: tuple[int, int],
) -> None:
    """Draw another person `aside` percent of the width from the middle, `scale` percent as tall."""
    tall, wide = canvas.pixels.shape[:2]
    other = make_identity(seed, _STRANGER * 2 + dice.below(10_000))
    figure = tall * SUB * FIGURE * dice.between(*scale) // 10_000
    across = wide // 2 + dice.choose((-1, 1)) * wide * dice.between(*aside) // 100
    ground = tall * dice.between(88, 98) // 100
    pose = make_pose(dice, pitch=pitch, top=(across * SUB, ground * SUB - figure), height=figure)
    draw_person(canvas, other, pose)


def _reduce(pixels: np.ndarray) -> np.ndarray:
    """Average blocks of `OVERSAMPLING` x `OVERSAMPLING` pixels, rounding half up."""
    k = OVERSAMPLING
    total = np.full((pixels.shape[0] // k, pixels.shape[1] // k, 3), k * k // 2, np.uint16)
    for offset in range(k * k):
        total += pixels[offset // k :: k, offset % k :: k]
    return (total // (k * k)).astype(np.uint8)


def _most_common(layers: np.ndarray) -> np.ndarray:
    """Return the most common value of each block of `OVERSAMPLING` x `OVERSAMPLING`.

    Of equally common values, the value at the block's upper left wins. No layer is favoured then.
    """
    k = OVERSAMPLING
    parts = np.stack([layers[offset // k :: k, offset % k :: k] for offset in range(k * k)])
    counts = [
        2 * np.count_nonzero(parts == layer, axis=0) + (parts[0] == layer)
        for layer in LAYERS.values()
    ]
    return np.array([*LAYERS.values()], np.uint8)[np.argmax(counts, axis=0)]
