"""The mode `train`: train a network, or resume its training, and evaluate it."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import ml_collections

from batnet_jax.data import Split
from batnet_jax.data.checks import SIDE, fitting_size, median_aspect
from batnet_jax.data.run_data import RetrievalTest, RunData, open_run_data
from batnet_jax.modes.dry_run import describe_run
from batnet_jax.modes.flags import given_fields
from batnet_jax.modes.next_steps import describe_end
from batnet_jax.runtime import processes
from batnet_jax.training.fitted import fit_and_tell, keep_fit, read_start
from batnet_jax.training.loop import train
from batnet_jax.training.start import check_run

PART_ROWS = 8
"""Pixels of a row of the map at p2, which the parts divide evenly."""


def run(config: ml_collections.ConfigDict, workdir: Path, *, dry_run: bool = False) -> None:
    """Train the config's network in a workdir, from the workdir's last checkpoint if it has one.

    Args:
      config: of the run.
      workdir: of the run.
      dry_run: say what would be done, and neither train nor write anything.

    Raises: see `training.loop.train`.
    """
    if dry_run:
        print(describe_run(*prepare(config, workdir, given_fields(), write=False), workdir))
        return
    config, data = prepare(config, workdir, given_fields())
    train(config, data, workdir)
    if processes.is_lead():
        print(describe_end(config, data, workdir))


def prepare(
    config: ml_collections.ConfigDict,
    workdir: Path,
    given: Collection[str],
    *,
    write: bool = True,
) -> tuple[ml_collections.ConfigDict, RunData]:
    """Return the settings of a run, with those that the training set chooses, and its data.

    Args:
      config: of the run.
      workdir: of the run.
      given: dotted names of the fields that the user gave, see `training.fitted.fit`.
      write: False = write nothing.

    Raises: see `training.loop.train`.
    """
    start = processes.by_lead(lambda: read_start(workdir))
    if start is not None:
        config = keep_fit(config, *start, given)
    check_run(config, workdir)
    data = processes.lead_first(lambda: open_run_data(config, write=write))
    check_same_images([*data.val, *data.tests], data.train.images)
    if start is None:
        tell_shape(config, data.train.images)
        config = fit_and_tell(config, data.train.labels, given)
    return config, data


def tell_shape(config: ml_collections.ConfigDict, images: Split) -> None:
    """Print the image size that fits, if `config.data.image_size` stretches the images far."""
    if images.shapes is None or not processes.is_lead():
        return
    aspect, size = median_aspect(images.shapes), tuple(config.data.image_size)
    step = math.lcm(SIDE, PART_ROWS * max(config.model.num_parts, 1))
    fitting = fitting_size(aspect, size, step)
    if fitting:
        print(
            f"note: the training images have a median height / width of {aspect:.2f}, and "
            f"config.data.image_size={size[0]},{size[1]} stretches it to {size[0] / size[1]:.2f}: "
            f"--config.data.image_size={fitting[0]},{fitting[1]} keeps their shape"
        )


def check_same_images(tests: Sequence[RetrievalTest], *more: Split) -> None:
    """Refuse to run if the processes have different images or labels.

    Raises: UserError in all processes.
    """
    splits = [s for test in tests for s in (test.query, test.gallery, test.more_query) if s]
    fingerprints = [split.content_fingerprint() for split in (*splits, *more)]
    processes.check_same("images", " ".join(fingerprints))
