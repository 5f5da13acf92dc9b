"""Settings that follow from the size of the training set, unless the user gave them.

`config.fit` says which settings are chosen. With `batch`, the settings of the batch are chosen, if
the set has fewer people than a batch. With `all`, the length of the run and its schedule are
chosen, too. A run keeps the settings that were chosen at its start.
"""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from batnet_jax.config import flatten
from batnet_jax.data.loading.sampler import steps_per_epoch
from batnet_jax.errors import UserError
from batnet_jax.runtime import processes
from batnet_jax.runtime.read_files import read_json
from batnet_jax.training.run_length import shape_of
from batnet_jax.validation import from_saved, validate
from batnet_jax.workdir.gcs import reached
from batnet_jax.workdir.run_folder import LABELS, checkpoint_run, read_settings

BATCH = ("batch.identities", "batch.images_per_identity", "loss.num_negatives")
LENGTH = (
    *("num_epochs", "decay_epochs", "warmup_epochs", "augment.erasing_start_epoch"),
    *("checkpoint.every_epochs", "schedule", "learning_rate"),
)
LEAST_STEPS = 1000
LEAST_EPOCHS = 20
"""The least steps and epochs of a run: in fewer, networks from scratch hardly learn."""
DECAYS = (0.6, 0.85)
"""Shares of a run at which a piecewise schedule decays."""
CONSTANT_STEPS = 2000
"""Steps up to which a run from scratch has no decay: its mean gains nothing (docs/training.md)."""
TRAINED_RATE = 5e-4
"""The learning rate of a run that starts from weights (paper, 4.4); a higher one spoils them."""
WARM_UP = 0.1
"""Share of a run in which the learning rate rises."""
ERASING = 0.25
"""Share of a run without random erasing."""
SAVES = 4
"""Checkpoints of a run."""


def fit(
    config: ml_collections.ConfigDict, labels: np.ndarray, given: Collection[str]
) -> ml_collections.ConfigDict:
    """Return the config with the settings that follow from the training set.

    Args:
      config: of the run.
      labels: [n] int, of the training images.
      given: dotted names of the fields that the user gave, which stay.

    Raises: UserError if there are fewer than two people.
    """
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) < 2:
        raise UserError(
            f"the training set has {len(counts)} identity, of {len(labels)} images, and training "
            "compares people: add some (without folders of splits a quarter of them is the test)"
        )
    if config.fit == "none":
        return config
    config = fit_negatives(_update(config, _batch(config, counts, given), given), given)
    if config.fit == "all" and config.batch.identities <= len(counts):
        config = _update(config, _length(config, labels, given), given)
    return config


def fit_and_tell(
    config: ml_collections.ConfigDict, labels: np.ndarray, given: Collection[str]
) -> ml_collections.ConfigDict:
    """Return the config with the settings that follow from the training set; print these.

    Raises: UserError, as `fit` and `validate` do.
    """
    fitted = fit(config, labels, given)
    line = describe_fit(config, fitted, labels)
    if line and processes.is_lead():
        print(line)
    validate(fitted)
    return fitted


def fit_negatives(
    config: ml_collections.ConfigDict, given: Collection[str]
) -> ml_collections.ConfigDict:
    """Return the config with no more negatives than a batch has for an anchor; see `fit`."""
    most = (config.batch.identities - 1) * config.batch.images_per_identity
    if config.fit == "none" or config.loss.num_negatives <= most:
        return config
    return _update(config, {"loss.num_negatives": max(most, 1)}, given)


def keep_fit(
    config: ml_collections.ConfigDict,
    saved: ml_collections.ConfigDict,
    people: int,
    given: Collection[str],
) -> ml_collections.ConfigDict:
    """Return the config with the settings that the start of a run chose.

    Args:
      config: of the command.
      saved: of the run, as in its workdir.
      people: number of the run's training identities.
      given: see `fit`.
    """
    names: tuple[str, ...] = ()
    if config.fit == "all":
        names = (*BATCH, *LENGTH)
    elif config.fit == "batch" and saved.batch.identities <= people < config.batch.identities:
        names = BATCH
    values = flatten(saved)
    return _update(config, {name: values[name] for name in names}, given)


def read_start(workdir: Path) -> tuple[ml_collections.ConfigDict, int] | None:
    """Return the settings and the number of training identities of the run in a workdir, if any.

    If a file is damaged, the latest checkpoint gives both. Without a checkpoint, and for a file
    that cannot be read, the result is None: the checks of the workdir report the file.
    """
    with reached(workdir):
        try:
            return from_saved(read_settings(workdir)), len(read_json(workdir / LABELS))
        except OSError:
            return None
        except (ValueError, TypeError):
            kept = checkpoint_run(workdir)
            if kept is None:
                return None
            return from_saved(kept["config"]), len(kept["identities"])


def describe_fit(
    before: ml_collections.ConfigDict, after: ml_collections.ConfigDict, labels: np.ndarray
) -> str:
    """Return a line with the settings that `fit` has changed; "" = none."""
    old, new = flatten(before), flatten(after)
    changed = [
        f"{name}={str(new[name]).replace(' ', '')}" for name in new if new[name] != old[name]
    ]
    if not changed:
        return ""
    return (
        f"chosen by the size of the training set ({len(np.unique(labels)):,} people, "
        f"{len(labels):,} images): {', '.join(changed)}; --config.FIELD=VALUE gives others"
    )


def _update(
    config: ml_collections.ConfigDict, values: Mapping[str, Any], given: Collection[str]
) -> ml_collections.ConfigDict:
    """Return a copy of a config with new values in the fields that the user has not given."""
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({k: v for k, v in values.items() if k not in given})
    return config


def _batch(
    config: ml_collections.ConfigDict, counts: np.ndarray, given: Collection[str]
) -> dict[str, int]:
    """Return P and K, the identities and their images in a batch.

    P is at most the number of people, and P x K divides among the devices and their parts.

    Args:
      config: of the run.
      counts: [people] int, the images of each.
      given: see `fit`.
    """
    p, k = config.batch.identities, config.batch.images_per_identity
    free = "batch.images_per_identity" not in given
    if free and config.fit == "all":
        k = int(np.clip(np.median(counts), 2, k))
    if p > len(counts) and "batch.identities" not in given:
        parts = jax.device_count() * config.batch.accumulate
        fitting = (q for q in range(len(counts), 1, -1) if q * k % parts == 0)
        p = next(fitting, len(counts))
        if free:
            k = math.lcm(p * k, parts) // p
    return {"batch.identities": p, "batch.images_per_identity": k}


def _length(
    config: ml_collections.ConfigDict, labels: np.ndarray, given: Collection[str]
) -> dict[str, Any]:
    """Return the epochs of the run, the epochs at which its schedule changes, and its rate."""
    epoch = steps_per_epoch(labels, **shape_of(config))
    epochs = max(LEAST_EPOCHS, math.ceil(max(LEAST_STEPS, config.steps) / epoch))
    if "num_epochs" in given:
        epochs = config.num_epochs
    trained = bool(config.init["from"])
    decays = tuple(dict.fromkeys(max(1, round(share * epochs)) for share in DECAYS))
    if not trained and (config.steps or epochs * epoch) <= CONSTANT_STEPS:
        decays = ()
    return {
        "num_epochs": epochs,
        **({"decay_epochs": decays} if config.schedule == "piecewise" else {}),
        **({"learning_rate": min(config.learning_rate, TRAINED_RATE)} if trained else {}),
        "warmup_epochs": min(round(WARM_UP * epochs), epochs - 1),
        "augment.erasing_start_epoch": round(ERASING * epochs),
        "checkpoint.every_epochs": max(1, math.ceil(epochs / SAVES)),
    }
