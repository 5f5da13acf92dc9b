"""The network and the variables of a checkpoint, after a check against the config."""

from pathlib import Path
from typing import Any

import ml_collections

from batnet_jax.models.build import make_model
from batnet_jax.runtime import processes
from batnet_jax.step.train_step import TrainState, make_recipe, state_shapes
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.same_run import check_architecture, saved_decay


def restore_network(
    config: ml_collections.ConfigDict, workdir: Path, step: int
) -> tuple[Any, dict[str, Any]]:
    """Restore the network of a checkpoint and its variables in every process.

    The first process reads the checkpoint and sends the variables to the others.

    Raises: UserError if the checkpoint has another architecture than the config.
    """
    network, variables, _ = restore_trained(config, workdir, step)
    return network, variables


def restore_trained(
    config: ml_collections.ConfigDict, workdir: Path, step: int
) -> tuple[Any, dict[str, Any], int]:
    """Restore what `restore_network` does, and the number of training steps taken.

    Raises: UserError if the checkpoint has another architecture than the config.
    """

    def read_variables() -> tuple[int, dict[str, Any], int]:
        _, state = restore_train_state(config, workdir, step)
        num_identities = len(checkpoints.restore_metadata(workdir, step)["identities"])
        return num_identities, state.tested(), int(state.step)

    num_identities, variables, taken = processes.by_lead(read_variables)
    return make_model(config, num_identities), variables, taken


def restore_train_state(
    config: ml_collections.ConfigDict, workdir: Path, step: int
) -> tuple[Any, TrainState]:
    """Restore the network of a checkpoint and its training state, as NumPy arrays.

    The checkpoint, not the config, says whether the state has a moving average.

    Raises: UserError if the checkpoint has another architecture than the config.
    """
    run = checkpoints.restore_metadata(workdir, step)
    check_architecture(config, run, workdir)
    recipe = make_recipe(config, num_identities=len(run["identities"]), steps_per_epoch=1)
    recipe = recipe._replace(ema_decay=saved_decay(run))
    shapes = state_shapes(recipe, tuple(config.data.image_size))
    return recipe.model, checkpoints.restore_state(workdir, step, shapes)
