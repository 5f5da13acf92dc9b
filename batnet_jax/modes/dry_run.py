"""Describes what a training run would do: its data, network, memory and steps."""

import os
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from batnet_jax.data import Split
from batnet_jax.data.run_data import RetrievalTest, RunData
from batnet_jax.errors import printable
from batnet_jax.modes.report import describe_network
from batnet_jax.step.memory import StepMemory, estimate_memory
from batnet_jax.step.train_step import make_recipe
from batnet_jax.training.run_length import RunLength, batch_size, plan_run
from batnet_jax.workdir import checkpoints


def describe_run(config: ml_collections.ConfigDict, data: RunData, workdir: Path) -> str:
    """Return lines about a run that would begin or resume; write nothing.

    Args:
      config: of the run, validated.
      data: of the run; the images are not read.
      workdir: of the run.

    Raises: UserError, as `plan_run` does, or if the network is too large.
    """
    length = plan_run(config, data.train.labels)
    recipe = make_recipe(
        config,
        num_identities=len(data.train.identities),
        steps_per_epoch=length.steps_per_epoch,
        axis_name=None,
    )
    size = tuple(config.data.image_size)
    memory = estimate_memory(recipe, size, batch_size(config) // jax.device_count())
    lines = {
        "train on": _describe_images(data.train.images, len(data.train.identities)),
        **{f"{test.split} on": _describe_test(test) for test in [*data.val, *data.tests]},
        "images": _describe_size(size, len(data.train.images), config.data.cache_gb),
        "batch": _describe_batch(config),
        "network": f"{describe_network(config.model)}: {memory.parameters:,} parameters",
        "memory": _describe_memory(memory),
        "steps": _describe_steps(length, checkpoints.latest_step(workdir) or 0),
        "workdir": f"'{workdir}'",
    }
    rows = [f"  {name:9} {printable(text)}" for name, text in lines.items()]
    return "\n".join(["this would be done, and nothing was written:", *rows])


def _describe_images(images: Split, people: int) -> str:
    cameras = len(np.unique(images.cameras)) if (images.cameras >= 0).all() else 0
    seen = f"{cameras} cameras" if cameras else "cameras unknown"
    return f"{len(images):,} images of {people:,} people, {seen}"


def _describe_test(test: RetrievalTest) -> str:
    people = len(np.unique(test.query.pids))
    return (
        f"{test.name}: {len(test.query):,} queries of {people:,} people, gallery "
        f"{len(test.gallery):,}"
    )


def _describe_size(size: Sequence[int], count: int, cache_gb: float) -> str:
    decoded = count * size[0] * size[1] * 3
    where = "kept in memory" if decoded <= cache_gb * 1e9 else "more than data.cache_gb keeps"
    pixels = f"{size[0]} x {size[1]} pixels"
    return f"resized to {pixels}; all of training {format_bytes(decoded)}, {where}"


def _describe_batch(config: ml_collections.ConfigDict) -> str:
    p, k = config.batch.identities, config.batch.images_per_identity
    count = jax.device_count()
    kind = jax.devices()[0].device_kind
    parts = f", in {config.batch.accumulate} parts" if config.batch.accumulate > 1 else ""
    return f"{p} people x {k} images = {p * k}, on {count} x {kind}{parts}"


def _describe_memory(memory: StepMemory) -> str:
    total = memory.state + memory.activations
    text = (
        f"at most about {format_bytes(total)} a device: {format_bytes(memory.state)} for the "
        f"state, {format_bytes(memory.activations)} for a step"
    )
    there = _device_bytes()
    return f"{text}; the device has {format_bytes(there)}" if there else text


def format_bytes(size: float) -> str:
    """Return a number of bytes with a unit, as in `2.4 MB`."""
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.0f} GB" if size >= 99.5 else f"{size:.3g} GB"


def _device_bytes() -> int:
    """Return the memory of a device, of the machine for a CPU; 0 = unknown."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError):
            return 0
    return (device.memory_stats() or {}).get("bytes_limit", 0)


def _describe_steps(length: RunLength, taken: int) -> str:
    epochs = f"{length.total / length.steps_per_epoch:,.1f}".removesuffix(".0")
    text = f"{length.total:,}: {epochs} epochs of {length.steps_per_epoch:,} steps"
    return f"{text}; {taken:,} are done" if taken else text
