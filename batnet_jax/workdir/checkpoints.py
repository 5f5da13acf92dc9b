"""Checkpoints, written by Orbax (see `orbax_calls`): the arrays of a state and metadata of the run.

A workdir's `checkpoints/<step>/` holds `state` (step, seed, params, batch_stats, opt_state and, in
runs that have it, average) and `run` (JSON, see `metadata`). The metadata describes the network, so
a checkpoint can be used without its workdir. All processes have the same state; only the lead reads
and writes checkpoints.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from batnet_jax.errors import ArgumentError, UserError, printable
from batnet_jax.runtime import orbax_calls, processes
from batnet_jax.runtime.atomic_write import flush_tree
from batnet_jax.runtime.paths import exists, is_folder, list_folder
from batnet_jax.workdir.best_checkpoint import best, read
from batnet_jax.workdir.checkpoint_checks import (
    DamagedError,
    check_room,
    damaged,
    declared_bytes,
    has_own_checksum,
    have_checksums,
    is_metadata,
    misplaced,
    other_version,
    unreadable,
)
from batnet_jax.workdir.checksums import broken_seal, damaged_arrays, seal, sealed_step
from batnet_jax.workdir.gcs import absolute, is_bucket

FOLDER = "checkpoints"
_STEP = re.compile("0|[1-9][0-9]{0,17}")
BEST = -1
"""A value of `step` that means the best checkpoint by validation."""
UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(AssertionError, RecursionError, EOFError),
)
"""Exceptions that Orbax raises for a damaged checkpoint. Lack of memory raises others."""
ITSELF = -2
"""A value of `step` that means a checkpoint's folder itself, copied out of its workdir."""


def metadata(
    config: ml_collections.ConfigDict,
    identities: Sequence[Sequence],
    data: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the metadata of a run's checkpoints.

    Args:
      config: of the run.
      identities: [data set, pid, name] in label order.
      data: see `run_data.fingerprints`; for imported weights, the checksum of their file.
    Returns: JSON with `model` (this section of the config), `identities`, `config` (the whole) and
      `data`.
    """
    settings = json.loads(config.to_json())
    return {
        "model": settings["model"],
        "identities": identities,
        "config": settings,
        "data": dict(data or {}),
    }


class NoManager:
    """Replaces the writer in processes that do not write."""

    def wait_until_finished(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def open_manager(
    workdir: Path, *, keep: int = 1, keep_best: int = 0
) -> orbax_calls.Writer | NoManager:
    """Open the manager of a workdir's checkpoints, which saves asynchronously and atomically.

    Incomplete checkpoints of a killed process are removed, so only one process may save in the
    workdir.

    Args:
      workdir: of the run.
      keep: number of newest checkpoints to keep.
      keep_best: number of best checkpoints to keep in addition, see `best_checkpoint`.
    """
    if not processes.is_lead():
        return NoManager()
    folder = absolute(workdir / FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    return orbax_calls.Writer(
        folder,
        keep,
        # Orbax's own `BestN` needs the figures when a checkpoint is saved. Our checkpoints are
        # saved before the evaluation, so that a failed evaluation loses no steps.
        choose=lambda steps: best(read(workdir), steps, keep_best),
        before_naming=lambda: _flush_written(folder),
    )


def _flush_written(folder: Path) -> None:
    """Force a checkpoint to the disk before Orbax gives it its name and removes an older one.

    TensorStore does so only for the arrays.

    Raises: OSError if the disk fails.
    """
    if not is_bucket(folder):
        for path in folder.glob("*.orbax-checkpoint-tmp*"):
            flush_tree(path)


def save(
    manager: orbax_calls.Writer | NoManager, step: int, state: Any, run: dict[str, Any]
) -> None:
    """Copy a state to the host and start saving it; the state may be donated afterwards.

    The metadata is saved with checksums, see `checksums`.

    Args:
      manager: of the workdir.
      step: steps taken.
      state: a TrainState, replicated.
      run: see `metadata`.

    Raises: OSError if the disk has no room; if the previous save failed, its exception.
    """
    if isinstance(manager, NoManager):
        return
    # A copy: on a CPU, device_get may return the device's own memory, to which the next step writes
    # while Orbax reads.
    fetched = jax.tree.map(np.array, jax.device_get(_fields(state)))
    check_room(str(manager.folder), sum(leaf.nbytes for leaf in jax.tree.leaves(fetched)))
    manager.save(step, fetched, seal(run, fetched, step))


def _fields(state: Any) -> dict[str, Any]:
    """Return the fields of a state that has them: a run without an average saves none."""
    return {name: value for name, value in vars(state).items() if value is not None}


def latest_step(workdir: Path) -> int | None:
    """Return the step of a workdir's latest complete checkpoint, or None."""
    return max(steps_of(workdir), default=None)


def steps_of(workdir: Path) -> list[int]:
    """Return the steps of all complete checkpoints of a workdir, ascending."""
    # Orbax renames a complete checkpoint's folder to its step; in a bucket it adds a file instead.
    folder = workdir / FOLDER
    found = [p for p in list_folder(folder) if _STEP.fullmatch(p.name)] if exists(folder) else []
    if is_bucket(workdir):
        found = [p for p in found if orbax_calls.is_complete(p)]
    return sorted(int(p.name) for p in found)


def configured_step(config: ml_collections.ConfigDict, workdir: Path) -> int:
    """Return the step of the checkpoint that `config.eval.step` selects, see `choose_step`.

    Raises: UserError if no such checkpoint exists.
    """
    try:
        return choose_step(workdir, config.eval.step)
    except ArgumentError as error:
        raise UserError(f"{error} (config.eval.step)") from error


def choose_step(workdir: Path, step: int) -> int:
    """Return the step of the checkpoint to restore.

    Args:
      workdir: of the run.
      step: a checkpoint's; 0 = the latest, -1 = the best by validation, see `best_checkpoint`.

    Raises: UserError if the workdir has no checkpoint; ArgumentError if it has only other steps.
    """
    folder = workdir / FOLDER
    steps = steps_of(workdir)
    if not steps:
        raise UserError(f"'{folder}' holds no checkpoint: train first, or name another workdir")
    if step == BEST:
        chosen = best(read(workdir), steps)
        if not chosen:
            raise ArgumentError(
                "step",
                f"step={BEST}, but no checkpoint of '{workdir}' was validated: set "
                "config.data.val_identities and config.eval.every_epochs in training, or give "
                f"a step: {', '.join(map(str, steps))}",
            )
        return chosen[0]
    if step and step not in steps:
        have = ", ".join(map(str, steps))
        raise ArgumentError("step", f"step={step} is not in '{folder}': choose from {have}, or 0")
    return step or steps[-1]


def locate(path: Path) -> tuple[Path, int | None]:
    """Split the path of a workdir or of a checkpoint's folder into workdir and step.

    Returns: (workdir, step) for the folder of a checkpoint in a workdir; (path, None) for a
      workdir; (path, `ITSELF`) for a checkpoint's folder outside a workdir, whatever its name.
    """
    if is_folder(path / FOLDER) or not is_folder(path / "run"):
        return path, None
    parent = absolute(path).parent
    if parent.name == FOLDER and _STEP.fullmatch(path.name):
        return parent.parent, int(path.name)
    return path, ITSELF


def folder_of(workdir: Path, step: int) -> Path:
    """Return the folder of a checkpoint."""
    return workdir if step == ITSELF else workdir / FOLDER / str(step)


def restore_metadata(workdir: Path, step: int) -> dict[str, Any]:
    """Read the metadata of a checkpoint, see `metadata`.

    Raises: DamagedError if it cannot be read or does not match its checksum; UserError if it is
      another version's, of another step, or out of reach.
    """
    run = _read(workdir, step, orbax_calls.read_run)
    if not is_metadata(run):
        if has_own_checksum(run):
            raise other_version(workdir, step, "its metadata is not this version's")
        raise damaged(workdir, step, "it lacks its run's metadata")
    if broken_seal(run):
        raise damaged(workdir, step, "its checksums are not those that it was saved with")
    saved = sealed_step(run)
    if (run.get("checksums") or saved is not None) and not has_own_checksum(run):
        raise damaged(workdir, step, "its metadata does not match its checksum")
    if saved is not None and step not in (saved, ITSELF):
        raise misplaced(workdir, step, saved)
    return run


def _read(workdir: Path, step: int, read_item: Callable[[Path], Any]) -> Any:
    """Read an item of a checkpoint by `read_item`, called with the checkpoint's folder.

    Raises: DamagedError if it cannot be read or has another structure; UserError if it is out of
      reach.
    """
    try:
        return read_item(absolute(folder_of(workdir, step)))
    except UNREADABLE as error:
        raise unreadable(workdir, step, error) from error


def restore_state(workdir: Path, step: int, like: Any) -> Any:
    """Read a state as NumPy arrays; the devices that wrote it do not matter.

    Args:
      workdir: of the run.
      step: of an existing checkpoint.
      like: a TrainState of the same structure, of arrays or of their shapes and types.

    Raises: DamagedError if the checkpoint cannot be read, or an array lacks its checksum;
      UserError if the checkpoint is whole but of another structure, or out of reach.
    """
    run = restore_metadata(workdir, step)
    sums = run.get("checksums", {})
    target = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), _fields(like))
    _check_declared(workdir, step, sum(leaf.nbytes for leaf in jax.tree.leaves(target)))
    try:
        restored = _read(workdir, step, lambda folder: orbax_calls.read_state(folder, target))
    except DamagedError as error:
        _refuse_other(workdir, step, sums, error.reason)
        raise
    for (path, want), got in zip(
        jax.tree.leaves_with_path(target), jax.tree.leaves(restored), strict=True
    ):
        if want.shape != got.shape:
            name = jax.tree_util.keystr(path)
            reason = f"{name} has shape {got.shape}, not {want.shape}"
            _refuse_other(workdir, step, sums, reason)
            raise damaged(workdir, step, reason)
    if others := damaged_arrays(run, restored):
        reason = f"{others[0]} does not match its checksum"
        _refuse_other(workdir, step, sums, reason)
        raise damaged(workdir, step, reason)
    if sealed_step(run) is None:
        _check_older(workdir, step, int(restored["step"]), bool(sums))
    return like.replace(**restored)


def _check_older(workdir: Path, step: int, state_step: int, has_sums: bool) -> None:
    """Check the step of a checkpoint without a seal; say on stderr if it has no checksums either.

    Raises: UserError if the state is of another step.
    """
    if step not in (state_step, ITSELF):
        raise misplaced(workdir, step, state_step)
    if not has_sums:
        line = (
            f"warning: checkpoint {state_step} in '{workdir}' is of an older version and has no"
            " checksums: damage to it would not be noticed"
        )
        print(printable(line), file=sys.stderr)


def _refuse_other(workdir: Path, step: int, sums: Mapping[str, int], reason: str) -> None:
    """Refuse a checkpoint that does not fit the run, unless the checkpoint is damaged.

    Args:
      workdir: of the run.
      step: of a checkpoint that `_check_declared` has passed.
      sums: its checksums.
      reason: why it does not fit.

    Raises: UserError if every array can be read and matches its checksum, or if the checkpoint is
      out of reach.
    """
    try:
        state = _read(workdir, step, orbax_calls.read_state)
    except DamagedError:
        return
    if have_checksums(state, sums):
        raise other_version(workdir, step, reason)


def _check_declared(workdir: Path, step: int, nbytes: int) -> None:
    """Check that a checkpoint does not declare far larger arrays than expected.

    Otherwise a damaged checkpoint could exhaust the memory. A moderately larger state of another
    structure passes, and is reported by its shapes.

    Args:
      workdir: of the run.
      step: of an existing checkpoint.
      nbytes: of the expected arrays.

    Raises: DamagedError if it does; UserError if the checkpoint is out of reach.
    """
    declared = sum(map(declared_bytes, _read(workdir, step, orbax_calls.declared_arrays)))
    if declared > 4 * nbytes + 10**8:
        reason = f"its arrays take {declared:,} bytes, the network's {nbytes:,}"
        raise damaged(workdir, step, reason)


def set_aside(workdir: Path, step: int) -> Path:
    """Move a checkpoint to the workdir's `damaged/`; return its new path."""
    place = workdir / "damaged" / str(step)
    while exists(place):
        place = place.with_name(place.name + "_")
    place.parent.mkdir(exist_ok=True)
    return (workdir / FOLDER / str(step)).rename(place)
