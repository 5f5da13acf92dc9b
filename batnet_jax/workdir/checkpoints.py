"""Checkpoints: Orbax's, with the run's facts beside the arrays.

Of several processes only the lead reads and writes them, for all have the same state.

A workdir's `checkpoints/<step>/` holds `state` (step, seed, params, batch_stats, opt_state) and
`run` (JSON, see `facts`), so that a checkpoint can be used wherever it is copied to.
"""

import errno
import json
import math
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers
from orbax.checkpoint.options import MultiprocessingOptions

from batnet_jax.errors import UserError
from batnet_jax.runtime import processes
from batnet_jax.workdir.best_checkpoint import BestValidated, best, read
from batnet_jax.workdir.gcs import absolute, is_bucket

FOLDER = "checkpoints"
FACTS = "facts"
"""Among the checksums: that of the facts themselves."""
BEST = -1
"""For `config.eval.step`: the best checkpoint by validation."""
UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(AssertionError, RecursionError, EOFError),
)
"""What Orbax raises of a damaged checkpoint; not what a network or too little memory does."""
ITSELF = -2
"""In place of a step: the path is the checkpoint's own, copied out of a workdir."""


def facts(
    config: ml_collections.ConfigDict,
    identities: Sequence[Sequence],
    data: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What a checkpoint says of itself beside its arrays.

    Args:
      config: of the run.
      identities: [data set, pid, name] in label order.
      data: see `run_data.fingerprints`; None where nothing was trained.
    Returns: `model` (that section), `identities`, `config` (all of it) and `data`, JSON.
    """
    settings = json.loads(config.to_json())
    return {
        "model": settings["model"],
        "identities": identities,
        "config": settings,
        "data": dict(data or {}),
    }


class NoManager:
    """In place of Orbax's manager, in the processes that do not write."""

    def wait_until_finished(self) -> None:
        """There is nothing to wait for."""

    def close(self) -> None:
        """There is nothing to close."""


def open_manager(
    workdir: Path, *, keep: int = 1, keep_best: int = 0
) -> ocp.CheckpointManager | NoManager:
    """The manager of a workdir's checkpoints; saving is asynchronous and atomic.

    What a process that was killed has left half-written is removed, so no other may save there.

    Args:
      workdir: of the run.
      keep: the newest so many stay.
      keep_best: and the best so many, see `selection`.
    """
    if not processes.is_lead():
        return NoManager()
    policies = [managers.LatestN(keep), BestValidated(workdir, keep_best)]
    folder = absolute(workdir / FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=managers.AnyPreservationPolicy(policies),
        create=processes.alone(),
        cleanup_tmp_directories=True,
        multiprocessing_options=_by_itself(),
    )
    return ocp.CheckpointManager(folder, options=options)


def _by_itself() -> MultiprocessingOptions:
    """Orbax does not wait for other processes."""
    if processes.alone():
        return MultiprocessingOptions()
    own = jax.process_index()
    return MultiprocessingOptions(primary_host=own, active_processes={own})


def save(
    manager: ocp.CheckpointManager | NoManager, step: int, state: Any, run: dict[str, Any]
) -> None:
    """Starts saving; the state is copied to the host first, so it may be donated at once.

    Checksums of the arrays go with the facts, for a disk may give back other bytes than it took.

    Args:
      manager: of the workdir.
      step: steps taken.
      state: a TrainState, replicated.
      run: the facts, JSON.

    Raises: OSError if the disk has no room; or, for the save before, what that met with.
    """
    if isinstance(manager, NoManager):
        return
    # A copy: on a CPU what device_get returns may be the device's own memory, which the next step
    # writes to while Orbax reads.
    fetched = jax.tree.map(np.array, jax.device_get(vars(state)))
    check_room(str(manager.directory), sum(leaf.nbytes for leaf in jax.tree.leaves(fetched)))
    arrays = ocp.args.StandardSave(fetched)  # type: ignore[call-arg]
    sums = checksums(fetched) | {FACTS: _facts_checksum(run)}
    facts = ocp.args.JsonSave(run | {"checksums": sums})  # type: ignore[call-arg]
    manager.save(step, args=ocp.args.Composite(state=arrays, run=facts))


def check_room(folder: str, nbytes: int) -> None:
    """Raises OSError if a disk has no room for so many bytes, before Orbax is half-way.

    Of a bucket nothing is known, and of quotas.
    """
    if "://" in folder:
        return
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        needs = f"a checkpoint needs {nbytes / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needs}")


def checksums(tree: Any) -> dict[str, int]:
    """The CRC-32 of each array's bytes, by its name."""
    return {
        jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf).data)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


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
      step: the wanted one; 0 = the latest, -1 = the best by validation, see `selection`.

    Raises: UserError if it does not exist.
    """
    folder = workdir / FOLDER
    steps = steps_of(workdir)
    if not steps:
        raise UserError(f"'{folder}' holds no checkpoint: train first, or name another --workdir")
    if step == BEST:
        chosen = best(read(workdir), steps)
        if not chosen:
            raise UserError(
                f"config.eval.step={BEST}, but no checkpoint of '{workdir}' was validated: set "
                "config.data.val_identities and config.eval.every_epochs in training, or give "
                f"a step: {', '.join(map(str, steps))}"
            )
        return chosen[0]
    if step and step not in steps:
        have = ", ".join(map(str, steps))
        raise UserError(f"config.eval.step={step} is not in '{folder}': choose from {have}, or 0")
    return step or steps[-1]


def locate(path: Path) -> tuple[Path, int | None]:
    """The workdir and step of a place: those of a checkpoint's folder, else a workdir itself.

    For a checkpoint that was copied out of its workdir, whatever its name, they are the path and
    `ITSELF`. The step is None for a workdir.
    """
    if (path / FOLDER).is_dir() or not (path / "run").is_dir():
        return path, None
    parent = absolute(path).parent
    if parent.name == FOLDER and path.name.isdecimal():
        return parent.parent, int(path.name)
    return path, ITSELF


def folder_of(workdir: Path, step: int) -> Path:
    """Where a checkpoint lies."""
    return workdir if step == ITSELF else workdir / FOLDER / str(step)


def restore_run(workdir: Path, step: int) -> dict[str, Any]:
    """The facts saved with a checkpoint.

    Raises: DamagedError if they cannot be read, or are others than were saved.
    """
    run = _read(workdir, step, ocp.args.Composite(run=ocp.args.JsonRestore())).run
    if not _are_facts(run):
        raise _unreadable(workdir, step, ValueError("it lacks the facts of its run"))
    sums = run.get("checksums")  # older checkpoints have none
    if sums and sums.get(FACTS) != _facts_checksum(run):
        raise _unreadable(workdir, step, ValueError("its facts do not have their checksum"))
    return run


def _are_facts(run: Any) -> bool:
    """Whether they are as `facts` makes them; older ones lack some."""
    if not isinstance(run, dict) or not isinstance(run.get("identities"), list):
        return False
    named = all(
        isinstance(who, list) and len(who) == 3 and all(isinstance(x, str | int) for x in who)
        for who in run["identities"]
    )
    sections = [run.get("model"), *(run.get(name, {}) for name in ("config", "data", "checksums"))]
    return named and all(isinstance(section, dict) for section in sections)


def _facts_checksum(run: dict[str, Any]) -> int:
    own = {name: value for name, value in run.items() if name != "checksums"}
    return zlib.crc32(json.dumps(own, sort_keys=True).encode())


def _read(workdir: Path, step: int, wanted: ocp.args.Composite) -> Any:
    """Reads items of a checkpoint; changes nothing.

    Raises: DamagedError if they cannot be read or are of another structure.
    """
    path = absolute(folder_of(workdir, step))
    try:
        handler = ocp.CompositeCheckpointHandler()
        with ocp.Checkpointer(handler, multiprocessing_options=_by_itself()) as reader:
            return reader.restore(path, args=wanted)
    except UNREADABLE as error:
        raise _unreadable(workdir, step, error) from error


def restore_state(workdir: Path, step: int, like: Any) -> Any:
    """Reads a state as NumPy arrays, whatever devices wrote it.

    Args:
      workdir: of the run.
      step: an existing checkpoint's.
      like: a TrainState of the same structure and shapes.

    Raises: DamagedError if it cannot be read or is of another structure.
    """
    wanted_sums = restore_run(workdir, step).get("checksums", {})
    target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), vars(like))
    _check_declared(workdir, step, sum(leaf.nbytes for leaf in jax.tree.leaves(target)))
    wanted = ocp.args.Composite(state=ocp.args.StandardRestore(target))  # type: ignore[call-arg]
    restored = _read(workdir, step, wanted).state
    for (path, want), got in zip(
        jax.tree.leaves_with_path(target), jax.tree.leaves(restored), strict=True
    ):
        if want.shape != got.shape:
            name = jax.tree_util.keystr(path)
            problem = ValueError(f"{name} has shape {got.shape}, not {want.shape}")
            raise _unreadable(workdir, step, problem)
    sums = checksums(restored)
    for name in wanted_sums.keys() - {FACTS}:
        if sums.get(name) != wanted_sums[name]:
            raise _unreadable(workdir, step, ValueError(f"{name} does not have its checksum"))
    return like.replace(**restored)


def _check_declared(workdir: Path, step: int, nbytes: int) -> None:
    """Refuses arrays that are far larger than the wanted ones, before their memory is taken.

    Args:
      workdir: of the run.
      step: an existing checkpoint's.
      nbytes: of the wanted arrays.

    Raises: DamagedError.
    """
    path = absolute(folder_of(workdir, step)) / "state"
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=_by_itself())
    try:
        declared = sum(
            _declared_bytes(leaf) for leaf in jax.tree.leaves(handler.metadata(path).tree)
        )
    except UNREADABLE as error:
        raise _unreadable(workdir, step, error) from error
    if declared > 4 * nbytes + 10**8:  # what is of another architecture is told by its shapes
        problem = f"its arrays take {declared:,} bytes, the network's {nbytes:,}"
        raise _unreadable(workdir, step, ValueError(problem))


def _declared_bytes(leaf: Any) -> int:
    """What reading an array takes; its chunks are read whole."""
    shape = getattr(leaf, "shape", None) or ()
    storage = getattr(leaf, "storage", None)
    chunk = (storage and storage.chunk_shape) or ()
    return max(math.prod(shape), math.prod(chunk)) * 8  # of any type


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
