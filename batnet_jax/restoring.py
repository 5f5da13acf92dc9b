"""The network of a checkpoint, where it is the one that the config describes."""

from pathlib import Path
from typing import Any

import ml_collections

from batnet_jax import checkpoint, hosts
from batnet_jax.errors import UserError
from batnet_jax.models import BATNet
from batnet_jax.steps import TrainState, init_state, make_model, make_recipe


def restore_model(
    config: ml_collections.ConfigDict, workdir: Path, step: int
) -> tuple[Any, dict[str, Any]]:
    """The network of a checkpoint and its variables.

    Raises: UserError if the checkpoint is of another architecture than the config's.
    """

    def read() -> tuple[int, dict[str, Any]]:
        _, state = restore_network(config, workdir, step)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        return len(checkpoint.restore_run(workdir, step)["identities"]), variables

    num_identities, variables = hosts.by_lead(read)
    return make_model(config, num_identities), variables


def restore_network(
    config: ml_collections.ConfigDict, workdir: Path, step: int
) -> tuple[Any, TrainState]:
    """The network of a checkpoint and its state, with NumPy arrays.

    Raises: UserError if the checkpoint is of another architecture than the config's.
    """
    run = checkpoint.restore_run(workdir, step)
    check_architecture(config, run, workdir)
    recipe = make_recipe(config, num_identities=len(run["identities"]), steps_per_epoch=1)
    like: TrainState = init_state(recipe, tuple(config.data.image_size))
    return recipe.model, checkpoint.restore_state(workdir, step, like)


def check_architecture(
    config: ml_collections.ConfigDict, run: dict[str, Any], workdir: Path
) -> None:
    """Refuses a config that describes another network than the checkpoint's.

    Raises: UserError naming the first field that differs.
    """
    for field, value in config.model.items():
        # A checkpoint older than the field is of the network that the field's default describes.
        saved = run["model"].get(field, getattr(BATNet, field, None))
        if saved != value:
            raise UserError(
                f"'{workdir}' holds a network with model.{field}={saved!r}, and the config says "
                f"{value!r}: pass --config.model.{field}={saved}, or another --workdir"
            )
