"""The effects of a camera on its images: view, colour cast, tone, blur, noise, JPEG loss."""

import functools
from typing import NamedTuple

import numpy as np

from batnet_jax.data.pedestrians.dice import ONE, Dice, cosine, noise
from batnet_jax.data.pedestrians.style import EASY, Style


class Camera(NamedTuple):
    """A camera's fixed properties; factors are in 1/256."""

    gains: tuple[int, int, int]  # of R, G, B: white balance times exposure
    curve: int
    contrast: int
    noise: int
    blur: int
    pitch: int
    light: int  # -1 or 1
    quality: int
    zoom: int  # percent


@functools.lru_cache(maxsize=64)
def make_camera(seed: int, number: int, style: Style = EASY) -> Camera:
    """Return camera `number` (from 1); cameras with adjacent numbers differ in their cast."""
    dice = Dice(seed, "camera", number)
    # The golden angle spreads the casts of any number of cameras around the colour circle.
    hue = 137 * number + dice.below(40)
    strength = dice.between(style.cast // 2, style.cast)
    exposure = 100 + dice.spread(style.exposure)
    gains = tuple(
        256 * exposure * (100 * ONE + strength * cosine(hue - angle)) // (10_000 * ONE)
        for angle in (0, 120, 240)
    )
    return Camera(
        gains=gains,  # type: ignore[arg-type]
        curve=dice.between(-style.curve, style.curve),
        contrast=256 * (100 - dice.below(style.contrast + 1)) // 100,
        noise=dice.between(style.noise // 4, style.noise),
        blur=dice.below(style.blur + 1),
        pitch=dice.below(style.pitch + 1),
        light=dice.choose((-1, 1)),
        quality=dice.between(*style.quality),
        zoom=dice.between(95, 105),
    )


def _tone(camera: Camera, flicker: int, casts: list[int]) -> np.ndarray:
    """Return look-up tables [256, 3] uint8 from scene colour to sensor colour."""
    level = np.arange(256, dtype=np.int64)[:, None]
    light = np.array([100 + flicker + cast for cast in casts])
    value = level * np.array(camera.gains) * light // (256 * 100)
    value = np.clip(value, 0, 255)
    value = value + camera.curve * value * (255 - value) // (255 * 128)
    value = 118 + (value - 118) * camera.contrast // 256
    return np.clip(value, 0, 255).astype(np.uint8)


def _soften(pixels: np.ndarray, passes: int) -> np.ndarray:
    """Apply the separable 1-2-1 filter `passes` times to [h, w, 3]; edges are repeated."""
    soft = pixels.astype(np.uint16)
    for _ in range(passes):
        for axis in (0, 1):
            pad = [(1, 1) if axis == i else (0, 0) for i in range(3)]
            wide = np.pad(soft, pad, mode="edge")
            before, after = (wide[:-2], wide[2:]) if axis == 0 else (wide[:, :-2], wide[:, 2:])
            soft = (before + 2 * soft + after + 2) >> 2
    return soft


def expose(
    pixels: np.ndarray, camera: Camera, dice: Dice, seed: int, style: Style = EASY
) -> np.ndarray:
    """Return the image of a scene, [h, w, 3] uint8, taken by a camera."""
    flicker = dice.spread(style.flicker)
    reach = style.flicker_cast
    casts = [dice.spread(reach) for _ in range(3)] if reach else [0, 0, 0]
    table = _tone(camera, flicker, casts)
    toned = np.stack([table[pixels[..., channel], channel] for channel in range(3)], axis=-1)
    soft = _soften(toned, camera.blur).astype(np.int16)
    grain = noise(seed, dice.below(1 << 30), soft.shape)
    return np.clip(soft + ((grain * camera.noise) >> 8), 0, 255).astype(np.uint8)
