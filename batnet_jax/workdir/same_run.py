"""Checks whether a config and its data belong to the run of a workdir.

A run may be resumed only with the settings, the network and the training data that it started
with; `config.FIELDS` marks the settings that may change. A checkpoint may be evaluated only as the
network that it holds, and validated only on identities that it has not been trained on.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from batnet_jax.config import RESUMABLE_FIELDS, complete, flatten
from batnet_jax.data.run_data import TRAIN_BY_LABEL, RetrievalTest
from batnet_jax.data.sources.spelling import show_names, similar_names
from batnet_jax.errors import UserError, printable
from batnet_jax.models import BATNet

MAX_SHOWN = 3
"""Names of identities in a message."""


def check_settings(
    config: ml_collections.ConfigDict, saved: Mapping[str, Any], workdir: Path
) -> None:
    """Check that a config can resume a run.

    A field that did not exist when the run started has the value that `complete` gives it.

    Args:
      config: the current settings.
      saved: the run's settings, as in config.json.
      workdir: of the run.

    Raises: UserError naming the first field that differs.
    """
    current = flatten(json.loads(config.to_json()))
    before = json.loads(json.dumps(complete(saved)))  # tuples become lists
    resumable = RESUMABLE_FIELDS
    if config.schedule == "cosine":  # the learning rate of each step depends on num_epochs
        resumable = tuple(name for name in resumable if name != "num_epochs")
    for field in sorted(current.keys() | before.keys()):
        may_change = any(f"{field}.".startswith(f"{name}.") for name in resumable)
        if not may_change and current.get(field) != before.get(field):
            raise UserError(
                f"'{workdir}' holds a run with config.{field}={before.get(field)!r}, not "
                f"{current.get(field)!r}: pass the same to resume it, or name another workdir"
            )


def check_architecture(
    config: ml_collections.ConfigDict, metadata: Mapping[str, Any], workdir: Path
) -> None:
    """Check that a config describes the network of a checkpoint.

    Args:
      config: its `model` section describes the network.
      metadata: of the checkpoint, see `checkpoints.metadata`.
      workdir: of the checkpoint.

    Raises: UserError naming the first field that differs.
    """
    for field, value in config.model.items():
        # In a checkpoint older than the field, the network is that of the field's default.
        saved = metadata["model"].get(field, getattr(BATNet, field, None))
        if saved != value:
            raise UserError(
                f"'{workdir}' holds a network with model.{field}={saved!r}, and the config says "
                f"{value!r}: pass --config.model.{field}={saved}, or another workdir"
            )


def saved_decay(metadata: Mapping[str, Any]) -> float:
    """Return `config.ema_decay` of a checkpoint's run; 0 for a run older than the field."""
    return (metadata.get("config") or {}).get("ema_decay", 0.0)


def check_image_size(
    config: ml_collections.ConfigDict, trained_size: tuple[int, int], path: Path
) -> None:
    """Check that a config has the image size that a checkpoint was trained on.

    Args:
      config: its `data.image_size` is checked.
      trained_size: (height, width) in pixels.
      path: of the checkpoint.

    Raises: UserError with both sizes.
    """
    size = tuple(config.data.image_size)
    if size != trained_size:
        raise UserError(
            f"'{path}' was trained on images of {trained_size} and the config says {size}: pass"
            f" '--config.data.image_size={trained_size}', or leave --config out"
        )


def check_training_data(
    saved: Mapping[str, Any], current: Mapping[str, Any], workdir: Path
) -> None:
    """Check that a checkpoint was trained on the same images and identities.

    Args:
      saved: metadata of the checkpoint, see `checkpoints.metadata`.
      current: metadata of the data now.
      workdir: of the checkpoint.

    Raises: UserError that names what differs, and says how to continue with the current data.
    """
    prints = saved.get("data", {}), current["data"]
    kind = TRAIN_BY_LABEL if all(TRAIN_BY_LABEL in one for one in prints) else "train"
    before, now = (one.get(kind) for one in prints)
    keys = [[identity_key(who) for who in metadata["identities"]] for metadata in (saved, current)]
    if keys[0] != keys[1]:
        were, are = ([name for _, name in own] for own in keys)
        change = (
            f"was trained on {len(were)} identities that are not the {len(are)} of the training "
            f"data now ({_describe_change(were, are)})"
        )
    elif before and now and before != now:  # old checkpoints have no fingerprints
        change = f"was trained on other images (fingerprint {before}, now {now})"
    else:
        return
    raise UserError(
        f"'{workdir}' {change}: restore the data to resume the run; or train on the current data "
        f"from what this run has learnt, by --config.init.from={workdir} and another --workdir"
    )


def identity_key(who: Sequence) -> tuple[str, str]:
    """Return the data set and the name of an identity; an unnamed one's name is its pid.

    The pid of a named identity changes when the data set gets more people.
    """
    dataset, pid, name = who
    return dataset, name or str(pid)


def _describe_change(were: Sequence[str], are: Sequence[str]) -> str:
    """Describe the names that have come and gone."""
    if sorted(were) == sorted(are):
        return "the same in another order, or of another data set"
    words = f"{_list_names('new', are, were)}; {_list_names('gone', were, are)}"
    changed = [sorted(set(one) - set(other)) for one, other in ((are, were), (were, are))]
    alike = [
        group
        for group in similar_names([*changed[0], *changed[1]])
        if all(set(group) & set(one) for one in changed)
    ]
    shown = f"; {show_names(alike[0])} differ only by case or Unicode form" if alike else ""
    return words + shown


def _list_names(title: str, names: Sequence[str], without: Sequence[str]) -> str:
    """Return the number and a few of the names that are not in `without`, as words."""
    others = sorted(set(names) - set(without))
    few = ", ".join(others[:MAX_SHOWN]) + (", ..." if len(others) > MAX_SHOWN else "")
    return f"{len(others)} {title}: {few}" if others else f"none {title}"


def warn_of_other_tests(
    saved: Mapping[str, Any], current: Mapping[str, Any], workdir: Path
) -> None:
    """Warn if the test images have changed since a checkpoint was saved.

    Args:
      saved: metadata of the checkpoint, see `checkpoints.metadata`.
      current: metadata of the data now.
      workdir: of the checkpoint.
    """
    before, now = saved.get("data", {}), current["data"]
    for name in before.keys() - {"train", TRAIN_BY_LABEL}:
        if before[name] != now.get(name, before[name]):
            line = (
                f"warning: the images of {name} have changed since '{workdir}' was last saved: "
                "figures before and after cannot be compared"
            )
            print(printable(line), file=sys.stderr)


def check_held_out(
    tests: Sequence[RetrievalTest], identities: Sequence[Sequence], workdir: Path
) -> None:
    """Check that no held-out identity is one that a checkpoint was trained on.

    Args:
      tests: only those of the split `val` are checked.
      identities: of the checkpoint, [data set, pid, name] each.
      workdir: of the checkpoint.

    Raises: UserError with the number of such identities.
    """
    trained = {identity_key(who) for who in identities}
    for test in tests:
        pids = test.gallery.pids.tolist()
        held_out = {identity_key((test.name, pid, test.name_of(pid))) for pid in pids}
        if test.split == "val" and held_out & trained:
            raise UserError(
                f"'{workdir}' was trained on {len(held_out & trained)} of the {len(held_out)} "
                "identities that config.data.val_identities holds out: pass the value it was "
                "trained with, or 0"
            )
