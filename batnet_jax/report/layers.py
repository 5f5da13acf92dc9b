"""The layers of drawn images on the page: their picture, and the shares of energy on them."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from batnet_jax.report.page import Markup, table

COLOURS = {
    "person": ("orange", (230, 159, 0)),
    "occluder": ("blue", (86, 180, 233)),
    "passer-by": ("pink", (204, 121, 167)),
}
"""The colour of each layer, RGB, as the colour-blind can tell them apart (Okabe & Ito, 2008). Other
layers, the background, stay grey."""
LEGEND = "Layers: " + ", ".join(f"{name} {word}" for name, (word, _) in COLOURS.items())
MAPS = {"before": "before", "mask": "mask", "excess": "mask above 1/2", "after": "after"}
"""The titles of the maps that `evaluation.layer_shares` measures."""
_WEIGHT = 0.6  # weight of a layer's colour; the image has the rest


def paint_layers(
    image: UInt8[np.ndarray, "H W 3"], layers: UInt8[np.ndarray, "h w"], values: Mapping[str, int]
) -> UInt8[np.ndarray, "H W 3"]:
    """Colour the layers of an image, which becomes grey.

    Args:
      image: RGB.
      layers: of the image, at any size.
      values: the value of each layer in `layers`, by name.
    Returns: RGB.
    """
    size = (image.shape[1], image.shape[0])
    large = cv2.resize(layers, size, interpolation=cv2.INTER_NEAREST)
    shown = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    for name, (_, colour) in COLOURS.items():
        inside = large == values[name]
        mixed = _WEIGHT * np.array(colour) + (1 - _WEIGHT) * shown[inside]
        shown[inside] = np.rint(mixed).astype(np.uint8)
    return shown


def share_table(figures: Mapping[str, Any]) -> Markup:
    """Make the table of the person's share of the energy of each map.

    Args:
      figures: see `evaluation.layer_shares.summarise`.
    """
    rows = []
    for position, maps in figures["positions"].items():
        for name, title in MAPS.items():
            if name in maps:
                own = maps[name]
                cells = [*percent_interval(own["person"]), *_format(own["lift"], "{:.2f}", 1)]
                cells.append(percent_interval(own["elsewhere"])[0])
                rows.append([f"{position}, {title}", *cells])
        if "gain" in maps:
            cells = percent_interval(maps["gain"]["person"], sign="+")
            rows.append([f"{position}, after less before", *cells, "", "", ""])
    caption = (
        f"The person's share of the energy of the maps (the sum over the channels of squares), in "
        f"per cent, over {figures['num_image']:,} queries; lift: this share divided by the "
        f"person's share of the area, {100 * figures['area']['person']:.1f}%; "
        f"{100 * figures['level']:.0f}% intervals over {figures['num_identity']:,} identities; on "
        "others: the share that the map of one image has on the person of another"
    )
    head = ["map", "share", "interval", "lift", "interval", "on others"]
    return table(caption, head, rows)


def percent_interval(figure: Mapping[str, Any], sign: str = "") -> list[str]:
    """Format a fraction and its interval in per cent, "-" for a figure that is None."""
    return _format(figure, f"{{:{sign}.1f}}", 100)


def _format(figure: Mapping[str, Any], form: str, factor: int) -> list[str]:
    if figure["value"] is None:
        return ["-", "-"]
    value, low, high = (form.format(factor * x) for x in (figure["value"], *figure["interval"]))
    return [value, f"{low} to {high}"]
