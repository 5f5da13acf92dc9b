"""Checkpoints: Orbax's, with the run's facts beside the arrays.

Of several processes only the lead reads and writes them, for all have the same state.

A workdir's `checkpoints/<step>/` holds `state` (step, seed, params, batch_stats, opt_state) and
`run` (JSON, see `facts`), so that a checkpoint can be used wherever it is copied to.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.options import MultiprocessingOptions

from batnet_jax import hosts
from batnet_jax.bucket import is_bucket
from batnet_jax.errors import UserError

FOLDER = "checkpoints"


def facts(config: ml_collections.ConfigDict, identities: Sequence[Sequence]) -> dict[str, Any]:
    """What a checkpoint says of itself beside its arrays.

    Args:
      config: of the run.
      identities: [data set, pid, name] in label order.
    Returns: `model` (that section), `identities` and `config` (all of it), JSON.
    """
    settings = json.loads(config.to_json())
    return {"model": settings["model"], "identities": identities, "config": settings}


class NoManager:
    """In place of Orbax's manager, in the processes that do not write."""

    def save(self, step: int, args: Any) -> None:
        """Saves nothing."""

    def wait_until_finished(self) -> None:
        """There is nothing to wait for."""

    def close(self) -> None:
        """There is nothing to close."""


def open_manager(workdir: Path, *, keep: int = 1) -> ocp.CheckpointManager | NoManager:
    """The manager of a workdir's checkpoints; saving is asynchronous and atomic.

    Args:
      workdir: of the run.
      keep: the newest so many stay.
    """
    if not hosts.is_lead():
        return NoManager()
    folder = (workdir / FOLDER).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=hosts.alone(), multiprocessing_options=_by_itself()
    )
    return ocp.CheckpointManager(folder, options=options)


def _by_itself() -> MultiprocessingOptions:
    """Orbax does not wait for other processes."""
    if hosts.alone():
        return MultiprocessingOptions()
    own = jax.process_index()
    return MultiprocessingOptions(primary_host=own, active_processes={own})


def save(
    manager: ocp.CheckpointManager | NoManager, step: int, state: Any, run: dict[str, Any]
) -> None:
    """Starts saving; the state is copied to the host first, so it may be donated at once.

    Args:
      manager: of the workdir.
      step: steps taken.
      state: a TrainState, replicated.
      run: the facts, JSON.
    """
    arrays = ocp.args.StandardSave(jax.device_get(vars(state)))  # type: ignore[call-arg]
    facts = ocp.args.JsonSave(run)  # type: ignore[call-arg]
    manager.save(step, args=ocp.args.Composite(state=arrays, run=facts))


def latest_step(workdir: Path) -> int | None:
    """The step of the latest whole checkpoint of a workdir, or None."""
    return max(steps_of(workdir), default=None)


def steps_of(workdir: Path) -> list[int]:
    """The steps of all whole checkpoints of a workdir, ascending."""
    # Orbax renames a checkpoint to its step once it is whole; in a bucket it puts a file beside it.
    folder = workdir / FOLDER
    found = [p for p in folder.iterdir() if p.name.isdecimal()] if folder.exists() else []
    if is_bucket(workdir):
        found = [p for p in found if ocp.utils.is_checkpoint_finalized(p)]
    return sorted(int(p.name) for p in found)


def choose_step(workdir: Path, step: int) -> int:
    """The step of the checkpoint to restore.

    Args:
      workdir: of the run.
      step: the wanted one; 0 = the latest.

    Raises: UserError if it does not exist.
    """
    folder = workdir / FOLDER
    steps = steps_of(workdir)
    if not steps:
        raise UserError(f"'{folder}' holds no checkpoint: train first, or name another --workdir")
    if step and step not in steps:
        have = ", ".join(map(str, steps))
        raise UserError(f"config.eval.step={step} is not in '{folder}': choose from {have}, or 0")
    return step or steps[-1]


def restore_run(workdir: Path, step: int) -> dict[str, Any]:
    """The facts saved with a checkpoint.

    Raises: DamagedError if they cannot be read.
    """
    return _read(workdir, step, ocp.args.Composite(run=ocp.args.JsonRestore())).run


def _read(workdir: Path, step: int, wanted: ocp.args.Composite) -> Any:
    """Reads items of a checkpoint; changes nothing.

    Raises: DamagedError if they cannot be read or are of another structure.
    """
    path = (workdir / FOLDER / str(step)).absolute()
    try:
        handler = ocp.CompositeCheckpointHandler()
        with ocp.Checkpointer(handler, multiprocessing_options=_by_itself()) as reader:
            return reader.restore(path, args=wanted)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(workdir, step, error) from error


def restore_state(workdir: Path, step: int, like: Any) -> Any:
    """Reads a state as NumPy arrays, whatever devices wrote it.

    Args:
      workdir: of the run.
      step: an existing checkpoint's.
      like: a TrainState of the same structure and shapes.

    Raises: DamagedError if it cannot be read or is of another structure.
    """
    target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), vars(like))
    wanted = ocp.args.Composite(state=ocp.args.StandardRestore(target))  # type: ignore[call-arg]
    restored = _read(workdir, step, wanted).state
    for (path, want), got in zip(
        jax.tree.leaves_with_path(target), jax.tree.leaves(restored), strict=True
    ):
        if want.shape != got.shape:
            name = jax.tree_util.keystr(path)
            problem = ValueError(f"{name} has shape {got.shape}, not {want.shape}")
            raise _unreadable(workdir, step, problem)
    return like.replace(**restored)


def set_aside(workdir: Path, step: int) -> Path:
    """Moves a checkpoint to `damaged/`, out of the way; returns its new place."""
    place = workdir / "damaged" / str(step)
    while place.exists():
        place = place.with_name(place.name + "_")
    place.parent.mkdir(exist_ok=True)
    return (workdir / FOLDER / str(step)).rename(place)


class DamagedError(UserError):
    """A checkpoint cannot be read, or is of another structure."""


def _unreadable(workdir: Path, step: int, error: Exception) -> DamagedError:
    reason = str(error).strip().split("\n")[0][:200]
    return DamagedError(
        f"checkpoint {step} in '{workdir}' is damaged or of another architecture ({reason}): "
        "give the config it was made with, or another --config.eval.step or --workdir"
    )
