"""The variables that training starts from, with the weights of a file or of a workdir."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from batnet_jax.weights.convert import Report, fill
from batnet_jax.weights.sources import check_agrees, open_source


def initialise(
    config: ml_collections.ConfigDict,
    variables: dict[str, Any],
    source: Path,
    *,
    identities: Sequence[Sequence] | None = None,
) -> tuple[dict[str, Any], Report]:
    """Return fresh variables with all values that a source has for them.

    The part streams of a source without parts are copies of its backbone. The classifiers are
    loaded only from a workdir that was trained on the same identities.

    Args:
      config: validated; its `model` section describes the network.
      variables: `params` and `batch_stats` of the fresh network.
      source: a .pth, .pth.tar or .safetensors file, or a workdir of this package.
      identities: of the training, as in a checkpoint's metadata.
    Returns: new variables of the same structure, NumPy float32, and the report.

    Raises:
      OtherNetworkError: if the source is of another network.
      UserError: if it cannot be read safely and completely, or its tensors do not fit.
    """
    opened = open_source(config, source)
    check_agrees(opened, config.model, whole=False)
    same = identities is not None and opened.identities == [list(who) for who in identities]
    return fill(variables, opened, keep_classifiers=same)
