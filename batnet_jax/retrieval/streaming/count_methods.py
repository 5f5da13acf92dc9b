"""The arithmetic of tiles on all devices, counted in the way that suits each kind of device."""

import functools
import importlib
import re
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from batnet_jax.retrieval.streaming import count
from batnet_jax.retrieval.streaming.device_map import on_devices
from batnet_jax.retrieval.streaming.query_blocks import Page, StepShape
from batnet_jax.retrieval.streaming.tiling import STEP_ROWS

DEPRECATED = (0, 11)
"""The first JAX that warns of Pallas' Triton backend."""
KERNELS = {
    "triton": "batnet_jax.retrieval.streaming.count_pallas",
    "mosaic": "batnet_jax.retrieval.streaming.count_mosaic",
}
"""The modules of the kernels, which are imported where they count."""


def counting_method() -> str:
    """Return how the devices count.

    "windows": few queries at a time, in windows, which suits a CPU's cache. "triton": the kernel of
    `count_pallas`, on GPUs for which Pallas compiles it, with a JAX that does not deprecate it.
    "mosaic": the kernel of `count_mosaic`, on TPUs from v4 on. "sums": plain sums of all queries,
    elsewhere.
    """
    if jax.default_backend() == "cpu":
        return "windows"
    device = jax.local_devices()[0]
    if device.platform == "tpu":
        old = re.match(
            r"TPU v[23]\b", str(device.device_kind)
        )  # too little memory beside the cores
        return "sums" if old else "mosaic"
    return "triton" if _has_triton(device) else "sums"


def _has_triton(device: Any) -> bool:
    """Return whether Pallas compiles for a GPU: NVIDIA's, compute capability 8.0 (Ampere) on.

    The kernel is written for Pallas' Triton backend, which JAX deprecates from 0.11 on. There the
    sums count, until a kernel for the backend that stays has been run on a GPU.
    """
    if jax.__version_info__ >= DEPRECATED:
        return False
    capability = str(getattr(device, "compute_capability", ""))  # a name on AMD's GPUs
    number = re.fullmatch(r"(\d+)\.\d+", capability)
    return device.platform == "gpu" and number is not None and int(number[1]) >= 8


def step_shape(block_rows: int) -> StepShape | None:
    """Return the shape of the counting steps of a block; None if counting has no steps."""
    if counting_method() in KERNELS:
        return None
    return StepShape(_step_rows(block_rows), bounded=counting_method() == "sums")


def _step_rows(block_rows: int) -> int:
    return min(STEP_ROWS, block_rows) if counting_method() == "windows" else block_rows


def tile_scores(queries: Array, features: Array, offset: Array | None) -> Array:
    """Compute `count.tile_scores` for a group: [devices, b, n]."""
    return on_devices(count.tile_scores, (0, None, None))(queries, features, offset)


def read_thresholds(scores: Array, page: Page, columns: Array, at_home: Any) -> Array:
    """Compute `count.read_thresholds` for a group: [devices, b, page]."""
    function = on_devices(count.read_thresholds, (0, 0, 0, None, 0))
    return function(scores, page.items, page.thresholds, columns, at_home)


def hide_removed(scores: Array, removed: Array, columns: Array, at_home: Any) -> Array:
    """Compute `count.hide_removed` for a group: [devices, b, n]; overwrite `scores`."""
    return on_devices(count.hide_removed, (0, 0, None, 0), (0,))(scores, removed, columns, at_home)


def hide_columns(scores: Array, columns: Any) -> Array:
    """Compute `count.hide_columns` for a group: [devices, b, n]; overwrite `scores`."""
    return on_devices(count.hide_columns, (0, 0), (0,))(scores, columns)


def count_ahead(scores: Array, page: Page, columns: Array, num_items: Array, active: Any) -> Array:
    """Compute `count.count_ahead` for a group: [devices, b, page]; overwrite `page.counts`."""
    arguments = (scores, page.items, page.thresholds, page.counts, columns, num_items, active)
    axes = (0, 0, 0, 0, None, None, 0)
    if page.steps is None:
        kernel = importlib.import_module(KERNELS[counting_method()])
        return on_devices(kernel.count_ahead, axes, (3,))(*arguments)
    is_windows = counting_method() == "windows"
    function = _count_in_steps(_step_rows(scores.shape[1]), is_windows, page.steps.bound)
    function = on_devices(function, (*axes, 0, 0), (3,))
    return function(*arguments, page.steps.origins, page.steps.number)


@functools.cache
def _count_in_steps(rows: int, windows: bool, bound: int | None) -> Callable:
    """Return `count.count_ahead` with constant settings; the same object for the same settings."""
    return functools.partial(count.count_ahead, rows=rows, windows=windows, bound=bound)
