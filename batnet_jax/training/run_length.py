"""A run in steps and batches: how many, which images, and what cannot be shared evenly."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from batnet_jax.data.loading.sampler import epoch_plan, steps_per_epoch
from batnet_jax.errors import ArgumentError, UserError


class Schedule(NamedTuple):
    """A run in steps.

    Attributes:
      steps_per_epoch: see `sampler`.
      total: steps of the whole run.
    """

    steps_per_epoch: int
    total: int

    def is_due(self, step: int, every_epochs: int) -> bool:
        """Whether `step` ends an epoch whose number `every_epochs` divides (0: only the last)."""
        if step == self.total:
            return True
        return bool(every_epochs) and step % (every_epochs * self.steps_per_epoch) == 0


def plan_schedule(config: ml_collections.ConfigDict, labels: np.ndarray) -> Schedule:
    """The run's length.

    Raises: UserError if the training set has fewer identities than a batch, or the run goes on
      where a cosine has brought the learning rate to 0.
    """
    try:
        epoch = steps_per_epoch(labels, **shape_of(config))
    except ArgumentError as error:
        raise UserError(f"{error} (config.batch.{error.argument})") from error
    whole = config.num_epochs * epoch
    if config.schedule == "cosine" and config.steps > whole:
        raise UserError(
            f"config.steps={config.steps} is more than the {whole} of "
            f"config.num_epochs={config.num_epochs}, after which the cosine is 0: give fewer steps "
            "or more epochs"
        )
    return Schedule(epoch, config.steps or whole)


def batch_size(config: ml_collections.ConfigDict) -> int:
    """Images a step, over all devices."""
    return config.batch.identities * config.batch.images_per_identity


def shape_of(config: ml_collections.ConfigDict) -> dict[str, int]:
    """P and K, as the functions of `sampler` call them."""
    return {name: config.batch[name] for name in ("identities", "images_per_identity")}


def batches(
    config: ml_collections.ConfigDict, labels: np.ndarray, first: int, schedule: Schedule
) -> Iterator[np.ndarray]:
    """The index rows of the steps `first`, ..., total - 1: a pure function of the seed."""
    epoch, skipped = divmod(first, schedule.steps_per_epoch)
    step = first
    while step < schedule.total:
        plan = epoch_plan(labels, **shape_of(config), seed=config.seed, epoch=epoch)
        for row in plan[skipped : skipped + schedule.total - step]:
            yield row
            step += 1
        epoch, skipped = epoch + 1, 0


def check_batch(config: ml_collections.ConfigDict) -> None:
    """Refuses a batch that the devices, or a device's parts, cannot share evenly.

    Raises: UserError with the numbers.
    """
    size = batch_size(config)
    batch = f"a batch of {config.batch.identities} x {config.batch.images_per_identity} = {size}"
    count, parts = jax.device_count(), config.batch.accumulate
    if size % count:
        raise UserError(
            f"{batch} images does not divide among {count} devices: change config.batch.identities"
        )
    if size % (count * parts):
        raise UserError(
            f"{batch} images, {size // count} on each of {count} devices, does not divide into "
            f"config.batch.accumulate={parts} parts: choose a divisor of {size // count}"
        )


def check_steps_left(schedule: Schedule, taken: int, workdir: Path) -> None:
    """Refuses to go on with a run that is already longer.

    Raises: UserError with both numbers.
    """
    if taken > schedule.total:
        raise UserError(
            f"'{workdir}' has been trained for {taken} steps, more than the {schedule.total} asked "
            f"for: use --mode=eval for its results, a config.steps of at least {taken}, or another "
            "--workdir"
        )
