"""The network of a checkpoint, where it is the one that the config describes."""

from pathlib import Path
from typing import Any

import ml_collections

from batnet_jax.models.build import make_model
from batnet_jax.runtime import processes
from batnet_jax.step.train_step import TrainState, init_state, make_recipe
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.run_folder import check_architecture


def restore_model(
    config: ml_collections.ConfigDict, workdir: Path, step: int
) -> tuple[Any, dict[str, Any]]:
    """The network of a checkpoint and its variables.

    Raises: UserError if the checkpoint is of another architecture than the config's.
    """

    def read() -> tuple[int, dict[str, Any]]:
        _, state = restore_network(config, workdir, step)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        return len(checkpoints.restore_run(workdir, step)["identities"]), variables

    num_identities, variables = processes.by_lead(read)
    return make_model(config, num_identities), variables


def restore_network(
    config: ml_collections.ConfigDict, workdir: Path, step: int
) -> tuple[Any, TrainState]:
    """The network of a checkpoint and its state, with NumPy arrays.

    Raises: UserError if the checkpoint is of another architecture than the config's.
    """
    run = checkpoints.restore_run(workdir, step)
    check_architecture(config, run, workdir)
    recipe = make_recipe(config, num_identities=len(run["identities"]), steps_per_epoch=1)
    like: TrainState = init_state(recipe, tuple(config.data.image_size))
    return recipe.model, checkpoints.restore_state(workdir, step, like)
