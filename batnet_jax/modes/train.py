"""The mode `train`: train a network, or resume its training, and evaluate it."""

from collections.abc import Sequence
from pathlib import Path

import ml_collections

from batnet_jax.data import Split
from batnet_jax.data.run_data import RetrievalTest, open_run_data
from batnet_jax.runtime import processes
from batnet_jax.training.loop import train
from batnet_jax.training.start import check_run

HELP = "Prepares the data if needed, trains or resumes, evaluates."
NEEDS = TAKES = ()


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Train the config's network in a workdir, from the workdir's last checkpoint if it has one."""
    check_run(config, workdir)
    data = processes.lead_first(lambda: open_run_data(config))
    check_same_images([*data.val, *data.tests], data.train.images)
    train(config, data, workdir)


def check_same_images(tests: Sequence[RetrievalTest], *more: Split) -> None:
    """Refuse to run if the processes have different images or labels.

    Raises: UserError in all processes.
    """
    splits = [s for test in tests for s in (test.query, test.gallery, test.more_query) if s]
    fingerprints = [split.content_fingerprint() for split in (*splits, *more)]
    processes.check_same("images", " ".join(fingerprints))
