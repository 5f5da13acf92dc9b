"""The figures of a model on the test of its run, or on other data."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import ml_collections

from batnet_jax.data.run_data import open_tests
from batnet_jax.data.sources.folder import Folder
from batnet_jax.evaluation.embed import Embed
from batnet_jax.evaluation.evaluate import make_result
from batnet_jax.evaluation.ranked_test import rank_test
from batnet_jax.runtime.paths import exists
from batnet_jax.validation import check_trusted, validate


def evaluate_model(
    config: ml_collections.ConfigDict,
    embed: Embed,
    step: int,
    data: str | os.PathLike = "",
    trust: str | Collection[str] = (),
) -> dict[str, Any]:
    """Return the figures of a model on a test; see `Model.evaluate`.

    Args:
      config: of the model's run.
      embed: of the model.
      step: training steps taken.
      data: see `Model.evaluate`.
      trust: see `Model.evaluate`.
    """
    config = config.copy_and_resolve_references()
    if data:
        _set_data(config, data)
        validate(config)
    else:
        check_trusted(config, "the model", trust, sections=("data", "eval"))
    tests = open_tests(config)
    test = next(test for test in tests if test.split == "test")
    with rank_test(config, test, embed, breakdown=config.eval.breakdown) as ranked:
        return make_result(config, ranked, step)


def _set_data(config: ml_collections.ConfigDict, data: str | os.PathLike) -> None:
    """Make the data set of a config the one that a caller names: a name, or a path."""
    config.data.train, config.eval.datasets, config.data.variant = (), (), ""
    config.data.val_identities, config.data.own_val = 0.0, False
    config.data.layout, config.data.pattern = "", ""
    if exists(Path(data)):
        config.data.dataset, config.data.manual_dir = Folder.name, os.fspath(data)
    else:
        config.data.dataset = os.fspath(data)
