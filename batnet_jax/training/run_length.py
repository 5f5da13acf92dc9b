"""The length of a run in steps and epochs, the images of its batches, and checks of both."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from batnet_jax.data.loading.sampler import epoch_plan, steps_per_epoch
from batnet_jax.errors import ArgumentError, UserError


class RunLength(NamedTuple):
    """The length of a run.

    Attributes:
      steps_per_epoch: see `sampler`.
      total: steps of the whole run.
    """

    steps_per_epoch: int
    total: int

    def is_due(self, step: int, every_epochs: int) -> bool:
        """Return whether `step` ends the run, or an epoch that is a multiple of `every_epochs`.

        With `every_epochs` = 0 only the end of the run counts.
        """
        if step == self.total:
            return True
        return bool(every_epochs) and step % (every_epochs * self.steps_per_epoch) == 0


def plan_run(config: ml_collections.ConfigDict, labels: np.ndarray) -> RunLength:
    """Return the length of a run.

    Args:
      config: of the run.
      labels: [n] int, of the training images.

    Raises: UserError if the training set has fewer identities than a batch, or if the run
      continues after the cosine has brought the learning rate to 0.
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
    return RunLength(epoch, config.steps or whole)


def batch_size(config: ml_collections.ConfigDict) -> int:
    """Return the number of images in a global batch."""
    return config.batch.identities * config.batch.images_per_identity


def shape_of(config: ml_collections.ConfigDict) -> dict[str, int]:
    """Return P and K as the keyword arguments of `sampler`'s functions."""
    return {name: config.batch[name] for name in ("identities", "images_per_identity")}


def batches(
    config: ml_collections.ConfigDict, labels: np.ndarray, first: int, length: RunLength
) -> Iterator[np.ndarray]:
    """Yield the image indices, [b] int, of steps `first` to `total` - 1.

    They depend on nothing but the labels, the batch's shape and the seed.
    """
    epoch, skipped = divmod(first, length.steps_per_epoch)
    step = first
    while step < length.total:
        plan = epoch_plan(labels, **shape_of(config), seed=config.seed, epoch=epoch)
        for row in plan[skipped : skipped + length.total - step]:
            yield row
            step += 1
        epoch, skipped = epoch + 1, 0


def check_batch(config: ml_collections.ConfigDict) -> None:
    """Check that the batch divides evenly among the devices and each device's parts.

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


def check_steps_left(length: RunLength, taken: int, workdir: Path) -> None:
    """Check that a run has not taken more steps already than it should.

    Raises: UserError with both numbers.
    """
    if taken > length.total:
        raise UserError(
            f"'{workdir}' has been trained for {taken} steps, more than the {length.total} asked "
            f"for: evaluate it, or give config.steps of at least {taken} or another workdir"
        )
