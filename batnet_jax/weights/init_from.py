"""The modes `import` and `export`, and the start of training from a source."""

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
    """The variables that training starts from: `init.from`.

    What the source has is taken. The part streams are copied from the backbone where it has none.
    The classifiers are taken only from a workdir that was trained on the same identities.

    Args:
      config: validated.
      variables: `params` and `batch_stats` of the fresh network.
      source: a .pth, .pth.tar or .safetensors file, or a workdir of this package.
      identities: those to be trained on, as in a checkpoint's `run`.
    Returns: new variables of the same structure, NumPy float32, and the report.

    Raises: UserError if the source cannot be read safely or whole, or does not fit the network.
    """
    opened = open_source(config, source)
    check_agrees(opened, config.model, whole=False)
    same = identities is not None and opened.identities == [list(who) for who in identities]
    return fill(variables, opened, keep_classifiers=same)
