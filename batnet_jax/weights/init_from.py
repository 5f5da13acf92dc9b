"""The variables that training starts from, with the weights of a file or of a workdir."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from batnet_jax.weights.convert import HEAD_ATTRIBUTES, HEADS, without_head
from batnet_jax.weights.fill import fill
from batnet_jax.weights.load_report import Report
from batnet_jax.weights.sources import check_agrees, open_source

IMPORTED = "imported"
"""The data set of nameless identities that came with imported weights."""


def initialise(
    config: ml_collections.ConfigDict,
    variables: dict[str, Any],
    source: Path,
    *,
    identities: Sequence[Sequence] | None = None,
) -> tuple[dict[str, Any], Report]:
    """Return fresh variables with all values that a source has for them.

    The part streams of a source without parts are copies of its backbone. The classifiers are
    loaded only from a workdir, and only for the identities that the workdir was trained on too;
    other identities keep their initial values.

    Args:
      config: validated; its `model` section describes the network.
      variables: `params` and `batch_stats` of the fresh network.
      source: a .pth, .pth.tar or .safetensors file, or a workdir of this package.
      identities: of the training, as in a checkpoint's metadata.
    Returns: new variables of the same structure, NumPy float32, and the report.

    Raises:
      OtherNetworkError: if the weights belong to another network.
      UserError: if it cannot be read safely and completely, or its tensors do not fit.
    """
    opened = open_source(config, source)
    head = {name: opened.model.get(name) for name in HEAD_ATTRIBUTES}
    if opened.format in HEADS and head != {name: config.model[name] for name in head}:
        opened = without_head(opened, "the network has another head")
    check_agrees(opened, config.model, whole=False)
    if identities is None or opened.identities is None:
        return fill(variables, opened, keep_classifiers=False)
    if opened.identities == [list(who) for who in identities]:
        return fill(variables, opened, keep_classifiers=True)
    ours, theirs = (_labels(people) for people in (identities, opened.identities))
    classes = [(label, theirs[who]) for who, label in ours.items() if who in theirs]
    filled, report = fill(variables, opened, keep_classifiers=False, classes=classes)
    if classes:
        report.identities += [(": ".join(who), "kept") for who in ours if who in theirs]
        report.identities += [(": ".join(who), "new") for who in ours if who not in theirs]
        report.identities += [(": ".join(who), "gone") for who in theirs if who not in ours]
    return filled, report


def _labels(identities: Sequence[Sequence]) -> dict[tuple[str, str], int]:
    """Return the label of each identity by data set and name; an unnamed one's name is its pid.

    The pid of a named identity does not serve: it changes when the data set grows. The
    identities of imported weights are unknown, and left out.
    """
    return {
        (data, name or str(pid)): label
        for label, (data, pid, name) in enumerate(identities)
        if data != IMPORTED
    }
