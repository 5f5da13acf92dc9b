"""TODO."""

from collections.abc import Sequence
from pathlib import Path

import ml_collections

from batnet_jax.data import Split
from batnet_jax.data.run_data import RetrievalTest, open_run_data
from batnet_jax.runtime import processes
from batnet_jax.training.loop import train
from batnet_jax.training.start import check_run


def run_train(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Prepares the data if needed, trains or resumes, evaluates."""
    check_run(config, workdir)
    data = processes.lead_first(lambda: open_run_data(config))
    check_same_images([*data.val, *data.tests], data.train.images)
    train(config, data, workdir)


def check_same_images(tests: Sequence[RetrievalTest], *more: Split) -> None:
    """Refuses processes that have different images or labels.

    Raises: UserError in all processes.
    """
    splits = [split for t in tests for split in (t.query, t.gallery, t.more_query) if split]
    prints = [split.content_fingerprint() for split in (*splits, *more)]
    processes.check_same("images", " ".join(prints))
