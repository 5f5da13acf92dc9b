"""Measures whether the attention looks at the person: shares of energy on drawn images' layers.

The paper shows in Fig. 6 that the mask filters out background clutter. The layer of each pixel of a
drawn image is known, so the remaining clutter can be measured.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jaxtyping import Float, Float64, UInt8

from batnet_jax.data import Split
from batnet_jax.data.loading.loader import prefetch
from batnet_jax.data.pedestrians.draw import LAYERS
from batnet_jax.data.run_data import open_store
from batnet_jax.data.sources.pedestrians import Pedestrians, layers_of
from batnet_jax.errors import UserError
from batnet_jax.evaluation.attention import energy_step
from batnet_jax.models import BATNet
from batnet_jax.retrieval.metrics import bootstrap_means
from batnet_jax.runtime.progress import progress_bar

LEVEL = 0.95
"""The share of the bootstrap's samples within an interval."""
SAMPLES = 1000
"""The bootstrap's samples: the ends of an interval rest on 25 of them."""
PERSON = LAYERS["person"]
_AT_ONCE = 256
"""Images whose pixels are held as float64, 64 kB each."""


class LayerShares(NamedTuple):
    """The shares of l layers in the area and in the maps of n images."""

    pids: np.ndarray
    """[n] int."""
    areas: Float64[np.ndarray, "n l"]
    maps: Mapping[str, Mapping[str, Float64[np.ndarray, "n l"]]]
    """By position and by map, as in `energy_step`; nan for an image whose map has no energy."""
    elsewhere: Mapping[str, Mapping[str, Float64[np.ndarray, " n"]]]
    """The person's share if each map lay on the other images: the share of a map that knows where
    people usually are, but does not see this one. Nan for a single image, too."""


def cell_areas(
    layers: UInt8[np.ndarray, "n H W"], grid: tuple[int, int]
) -> Float64[np.ndarray, "n l h w"]:
    """Return the fraction of each cell of a grid [h, w] over the image that each layer covers."""
    height, width = (
        _overlaps(size, cells) for size, cells in zip(layers.shape[1:], grid, strict=True)
    )
    return np.concatenate(
        [
            np.stack([height @ (part == layer) @ width.T for layer in LAYERS.values()], axis=1)
            for part in np.array_split(layers, -(-len(layers) // _AT_ONCE))
        ]
    )


def _overlaps(size: int, cells: int) -> Float64[np.ndarray, "cells size"]:
    """Divide a line into equal cells; return the fraction of each cell that each pixel covers."""
    edges = np.arange(cells + 1)[:, None] * (size / cells)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return np.maximum(overlap, 0) * (cells / size)


def energy_shares(
    energy: Float[np.ndarray, "n h w"], areas: Float64[np.ndarray, "n l h w"]
) -> Float64[np.ndarray, "n l"]:
    """Return the share of each layer in the energy of each map.

    Args:
      energy: of each cell, >= 0.
      areas: see `cell_areas`. The energy of a cell is spread evenly over the cell.
    Returns: rows that sum to 1; nan for a map without energy.
    """
    energy = np.asarray(energy, np.float64)
    on_layers = np.einsum("nhw,nlhw->nl", energy, areas)
    total = energy.sum((1, 2))[:, None]
    return np.divide(on_layers, total, out=np.full(on_layers.shape, np.nan), where=total > 0)


def shares_elsewhere(
    energy: Float[np.ndarray, "n h w"], areas: Float[np.ndarray, "n h w"]
) -> Float64[np.ndarray, " n"]:
    """Return the share of each map's energy that a layer of the other images covers, on average.

    Args:
      energy: of each cell, >= 0.
      areas: the fraction of each cell that the layer covers.
    Returns: nan for a map without energy, and for a single image.
    """
    energy, areas = np.asarray(energy, np.float64), np.asarray(areas, np.float64)
    others = areas.sum(0) - areas
    total = energy.sum((1, 2)) * (len(areas) - 1)
    on_layer = (energy * others).sum((1, 2))
    return np.divide(on_layer, total, out=np.full(len(areas), np.nan), where=total > 0)


def measure_layers(
    config: ml_collections.ConfigDict,
    model: BATNet,
    variables: dict[str, Any],
    split: Split,
    *,
    positions: Sequence[str],
) -> LayerShares:
    """Measure the shares of the layers in the maps of all images of a split.

    Args:
      config: its `data` section and `eval.batch` are read.
      model: the network.
      variables: `params` and `batch_stats`.
      split: at least one drawn image, see `data.sources.pedestrians.is_drawn`.
      positions: see `energy_step`.

    Raises: UserError if a map is not finite.
    """
    # XLA drops the layers after the last position, because nothing uses their outputs.
    step = jax.jit(functools.partial(energy_step, model=model, positions=tuple(positions)))
    total, batch = len(split), min(config.eval.batch, len(split))
    # The last batch is padded, so that all steps have one shape and one compilation serves all.
    plan = [np.minimum(np.arange(s, s + batch), total - 1) for s in range(0, total, batch)]
    energies, layers = [], []
    with (
        open_store(config, split, keep=False) as store,
        prefetch(store, plan) as batches,
        progress_bar(total, description="layers") as bar,
    ):
        for rows, images in batches:
            energies.append(jax.device_get(step(variables, images)))
            layers.append(layers_of(split, np.unique(rows)))
            bar.update(len(layers[-1]))
    joined = jax.tree.map(lambda *parts: np.concatenate(parts)[:total], *energies)
    return share_layers(joined, np.concatenate(layers), split.pids)


def share_layers(
    energies: Mapping[str, Mapping[str, np.ndarray]],
    layers: UInt8[np.ndarray, "n H W"],
    pids: np.ndarray,
) -> LayerShares:
    """Return the shares of layers in the energy of n images' maps.

    Args:
      energies: [n, h, w] by position and map, as in `energy_step`.
      layers: of the images.
      pids: [n] int.

    Raises: UserError if a map is not finite.
    """
    shares: dict[str, dict[str, np.ndarray]] = {}
    elsewhere: dict[str, dict[str, np.ndarray]] = {}
    for position, maps in energies.items():
        shares[position], elsewhere[position] = {}, {}
        areas = cell_areas(layers, maps["before"].shape[1:])
        for name, energy in maps.items():
            if not np.isfinite(energy).all():
                raise UserError(
                    f"the map '{name}' at {position} holds values that are not finite, so this "
                    "checkpoint is useless: choose an earlier one"
                )
            shares[position][name] = energy_shares(energy, areas)
            elsewhere[position][name] = shares_elsewhere(energy, areas[:, PERSON])
    return LayerShares(pids, cell_areas(layers, (1, 1))[:, :, 0, 0], shares, elsewhere)


def summarise(shares: LayerShares, *, samples: int = SAMPLES, seed: int = 0) -> dict[str, Any]:
    """Average the shares over the images, with intervals (percentile bootstrap).

    Whole identities are drawn, because images of one person are similar; a distractor is a person
    of its own.

    Args:
      shares: of n images.
      samples: draws of the bootstrap.
      seed: of the draws.

    Returns: `num_image`, `num_identity`, `level`, `area` (by layer) and `positions`. This has for
      each position, by map, `num_image` (with energy; the averages are over them), `share` (by
      layer), and `person`, `lift` and `elsewhere`, each a value and [low, high]. Lift is the
      person's share divided by the person's share of the area; for `elsewhere` see `LayerShares`.
      Where there is an attention, `gain` has the person's share after it less the share before it.
      Figures of a map without energy in any image are None.
    """
    distractors = shares.pids == Pedestrians.DISTRACTOR_PID
    people = np.where(distractors, -1 - np.arange(len(shares.pids)), shares.pids)

    def average(*columns: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        """Return the number of images with all values, their means and the draws' means."""
        values = np.stack(columns, 1)
        valid = np.isfinite(values).all(1)
        if not valid.any():
            return 0, np.full(len(columns), np.nan), np.full((1, len(columns)), np.nan)
        drawn = bootstrap_means(values[valid], people[valid], samples=samples, seed=seed)
        return int(valid.sum()), values[valid].mean(0), drawn

    positions: dict[str, dict[str, Any]] = {}
    for position, maps in shares.maps.items():
        figures = positions[position] = {}
        for name, own in maps.items():
            count, mean, drawn = average(*own.T, shares.areas[:, PERSON])
            _, other, drawn_other = average(shares.elsewhere[position][name])
            figures[name] = {
                "num_image": count,
                "share": _by_layer(mean),
                "person": _with_interval(mean[PERSON], drawn[:, PERSON]),
                "lift": _with_interval(mean[PERSON] / mean[-1], drawn[:, PERSON] / drawn[:, -1]),
                "elsewhere": _with_interval(other[0], drawn_other[:, 0]),
            }
        if "after" in maps:
            gains = maps["after"][:, PERSON] - maps["before"][:, PERSON]
            count, mean, drawn = average(gains)
            figures["gain"] = {"num_image": count} | {
                "person": _with_interval(mean[0], drawn[:, 0])
            }
    return {
        "num_image": len(shares.pids),
        "num_identity": len(np.unique(people)),
        "level": LEVEL,
        "area": _by_layer(shares.areas.mean(0)),
        "positions": positions,
    }


def _by_layer(values: np.ndarray) -> dict[str, float | None]:
    return {name: _number(values[layer]) for name, layer in LAYERS.items()}


def _with_interval(value: float, drawn: np.ndarray) -> dict[str, Any]:
    if not np.isfinite(value):
        return {"value": None, "interval": None}
    ends = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": float(value), "interval": [float(end) for end in ends]}


def _number(value: float) -> float | None:
    """Return a number as JSON stores it, with None for nan."""
    return float(value) if np.isfinite(value) else None
