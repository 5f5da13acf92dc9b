"""The difficulty of the drawings: the numbers by which `pedestrians:hard` differs from the demo."""

from collections.abc import Mapping
from typing import NamedTuple


class Style(NamedTuple):
    """The difficulty of drawings. Percentages are of the picture's size, of images or of light."""

    zoom: int  # percent: greatest error of a crop, too tight or too loose
    shift_across: int  # percent of the width: greatest distance of the person from the centre
    shift_down: int  # percent of the height
    occlusion: int  # percent of images with something in front of the person
    passer_by: int  # percent of images with another person behind, at the edge of the picture
    vivid: int  # percent of backdrop pieces with a colour as strong as clothes
    family: int  # identities that share one set of colours, at most 6
    cast: int  # percent: greatest colour cast of a camera, the spread between the channels
    exposure: int  # percent: range of brightness among cameras
    flicker: int  # percent: range of brightness among the images of one camera
    flicker_cast: int  # percent: range of each channel among the images of one camera
    curve: int  # of 256: greatest bend of the tone curve, to dark or bright midtones
    contrast: int  # percent: greatest loss of contrast
    noise: int  # of 255: amplitude of the sensor noise of the worst camera
    blur: int  # passes of the 1-2-1 filter in the softest camera
    pitch: int  # degrees: steepest view from above
    quality: tuple[int, int]  # of the JPEG files


EASY = Style(
    zoom=9,
    shift_across=9,
    shift_down=5,
    occlusion=12,
    passer_by=10,
    vivid=15,
    family=3,
    cast=8,
    exposure=13,
    flicker=5,
    flicker_cast=0,
    curve=45,
    contrast=15,
    noise=10,
    blur=1,
    pitch=20,
    quality=(62, 92),
)
HARD = Style(
    zoom=16,
    shift_across=16,
    shift_down=8,
    occlusion=25,
    passer_by=25,
    vivid=40,
    family=6,
    cast=16,
    exposure=24,
    flicker=10,
    flicker_cast=5,
    curve=64,
    contrast=28,
    noise=18,
    blur=2,
    pitch=30,
    quality=(40, 90),
)
STYLES: Mapping[str, Style] = {"easy": EASY, "hard": HARD}
"""The styles by name. A style's position, from 1, is the sequence in the names of its files."""
