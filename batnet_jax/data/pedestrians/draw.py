"""Draws a pedestrian: a pure function of (seed, pid, camera, index) and the size of the picture.

Two machines draw the same bytes. Random draws come from a hash (`dice`), shapes are filled by
integer arithmetic (`raster`), camera effects are integer look-up tables and filters (`camera`), and
no floating-point array appears anywhere: vectorised sines and powers differ in their last bit among
processors, and Pillow's polygons among its versions. Pictures are drawn at `OVERSAMPLING` times
their size and averaged. Only `draw_jpeg` leaves our hands: its bytes are libjpeg's, with fixed
quality and subsampling.

The task is made for learned features and against colour counting; the constants here and in
`identity`, `figure`, `scene` and `camera` say how hard it is.
"""

import io

import numpy as np
from PIL import Image

from batnet_jax.data.pedestrians.camera import expose, make_camera
from batnet_jax.data.pedestrians.dice import Dice
from batnet_jax.data.pedestrians.figure import draw_person, make_pose
from batnet_jax.data.pedestrians.identity import make_identity
from batnet_jax.data.pedestrians.plan import SIZES, SPLITS, Shot, Size, make_shot, plan
from batnet_jax.data.pedestrians.raster import SUB, Canvas
from batnet_jax.data.pedestrians.scene import OCCLUDERS, backdrop, occlude

__all__ = ["SIZES", "SPLITS", "Shot", "Size", "draw_image", "draw_jpeg", "make_shot", "plan"]

OVERSAMPLING = 2
FIGURE = 98  # percent of the picture's height that a person of average stature takes
ZOOM = 9  # percent: how much too tight or too loose a crop is
SHIFT_ACROSS = 9  # percent of the width: how far off-centre the person stands
SHIFT_DOWN = 5  # percent of the height
OCCLUSION = 12  # percent of images with something in front of the person
PASSER_BY = 10  # percent of images with another person behind, at the edge

_STRANGER = 1_000_000  # identities from here on are passers-by and distractors


def draw_image(
    pid: int, camera: int, index: int, *, seed: int, height: int, width: int
) -> np.ndarray:
    """The picture of one shot of a plan.

    Args:
      pid: identity; 0 draws a distractor, a different one for each index.
      camera: from 1.
      index: which of the identity's images.
      seed: of the data set.
      height: in pixels.
      width: in pixels.

    Returns: [height, width, 3] uint8 RGB.
    """
    tall, wide = height * OVERSAMPLING, width * OVERSAMPLING
    eye = make_camera(seed, camera)
    dice = Dice(seed, "image", pid, camera, index)
    canvas = Canvas(_background(dice, seed, camera, tall, wide), eye.light)
    if dice.chance(PASSER_BY):
        _stranger(canvas, dice, seed, eye.pitch, aside=(46, 60), scale=(60, 88))
    person = make_identity(seed, pid if pid else _STRANGER + index)
    zoom = FIGURE * eye.zoom * (100 + dice.spread(ZOOM)) // 100
    figure = tall * SUB * zoom // 10_000 * person.stature // 100
    across = wide // 2 + wide * dice.spread(SHIFT_ACROSS) // 100
    ground = tall * (97 + dice.spread(SHIFT_DOWN)) // 100
    pose = make_pose(
        dice, pitch=eye.pitch, top=(across * SUB, ground * SUB - figure), height=figure
    )
    draw_person(canvas, person, pose)
    if dice.chance(OCCLUSION):
        kind = dice.choose(OCCLUDERS)
        if kind == "person":
            _stranger(canvas, dice, seed, eye.pitch, aside=(42, 54), scale=(90, 105))
        else:
            occlude(canvas, dice, kind)
    # Dice of its own: what stands in the way must not change the noise.
    shutter = Dice(seed, "shutter", pid, camera, index)
    return expose(_reduce(canvas.pixels), eye, shutter, seed)


def draw_jpeg(pid: int, camera: int, index: int, *, seed: int, height: int, width: int) -> bytes:
    """The same picture as the bytes of a JPEG file, at the camera's quality."""
    picture = draw_image(pid, camera, index, seed=seed, height=height, width=width)
    file = io.BytesIO()
    quality = make_camera(seed, camera).quality
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def _background(dice: Dice, seed: int, camera: int, tall: int, wide: int) -> np.ndarray:
    view = backdrop(seed, camera, tall, wide)
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
    """Another person, `aside` percent of the width from the middle, `scale` percent as tall."""
    tall, wide = canvas.pixels.shape[:2]
    other = make_identity(seed, _STRANGER * 2 + dice.below(10_000))
    figure = tall * SUB * FIGURE * dice.between(*scale) // 10_000
    across = wide // 2 + dice.choose((-1, 1)) * wide * dice.between(*aside) // 100
    ground = tall * dice.between(88, 98) // 100
    pose = make_pose(dice, pitch=pitch, top=(across * SUB, ground * SUB - figure), height=figure)
    draw_person(canvas, other, pose)


def _reduce(pixels: np.ndarray) -> np.ndarray:
    """Averages blocks of `OVERSAMPLING` squared pixels, rounding half up."""
    k = OVERSAMPLING
    total = np.full((pixels.shape[0] // k, pixels.shape[1] // k, 3), k * k // 2, np.uint16)
    for offset in range(k * k):
        total += pixels[offset // k :: k, offset % k :: k]
    return (total // (k * k)).astype(np.uint8)
