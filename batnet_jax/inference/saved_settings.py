"""The settings of a trained model: of a checkpoint, or of a file of weights."""

from pathlib import Path

import ml_collections

from batnet_jax.errors import UserError
from batnet_jax.runtime.paths import exists, is_file
from batnet_jax.runtime.read_files import read_json
from batnet_jax.validation import from_saved, validate
from batnet_jax.weights.given import given_config
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.gcs import is_bucket
from batnet_jax.workdir.run_folder import CONFIG

WEIGHTS_SUFFIXES = (".pth", ".pt", ".pth.tar", ".safetensors")


def read_config(path: Path, step: int = 0) -> ml_collections.ConfigDict:
    """Read the settings of a run from its checkpoint, or from config.json if the run is old.

    A file of weights has the settings of `weights.given.given_config`.

    Raises: UserError if the checkpoint is missing, lacks settings, or is of a later version.
    """
    if is_file(path):
        refuse_step(path, step)
        return given_config(path)
    if path.name.endswith(WEIGHTS_SUFFIXES) and not is_bucket(path) and not exists(path):
        raise UserError(f"'{path}' does not exist: name a file of weights, or a workdir")
    workdir, step = choose_checkpoint(path, step)
    run = checkpoints.restore_metadata(workdir, step)
    saved = run.get("config")
    if saved is None:
        try:
            saved = read_json(workdir / CONFIG)
        except (OSError, ValueError) as error:
            raise UserError(
                f"'{path}' does not hold its settings, and '{workdir / CONFIG}' cannot be read:"
                " give the workdir"
            ) from error
    config = from_saved(saved)
    unknown = sorted(run["model"].keys() - config.model.keys())
    if unknown:
        raise UserError(
            f"'{path}' has model.{unknown[0]}, which this version does not know: install a later"
            " version"
        )
    config.eval.step = 0
    validate(config)
    return config


def refuse_step(path: Path, step: int) -> None:
    """Refuse a step of a file of weights, which has no steps.

    Raises: UserError for any but 0.
    """
    if step != 0:
        raise UserError(f"'{path}' is a file of weights, which has no step {step}: leave step out")


def choose_checkpoint(path: Path, step: int) -> tuple[Path, int]:
    """Return the workdir and the step of the checkpoint that `load` reads.

    Raises: UserError if no such checkpoint exists.
    """
    workdir, own_step = checkpoints.locate(path)
    if own_step is not None and step not in (0, own_step):
        raise UserError(f"'{path}' is a checkpoint by itself, not step {step}: leave step out")
    return workdir, checkpoints.choose_step(workdir, step) if own_step is None else own_step
