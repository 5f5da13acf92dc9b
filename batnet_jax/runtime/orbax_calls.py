"""All calls of Orbax, so that a new Orbax changes one file.

A checkpoint is a folder with two items: `state`, arrays, and `run`, JSON.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers
from orbax.checkpoint import multihost
from orbax.checkpoint.options import MultiprocessingOptions

Choose = Callable[[Sequence[int]], Sequence[int]]
"""Given the steps of all checkpoints, returns those to keep."""


@dataclass
class _Kept:
    """Orbax's form of a `Choose`."""

    choose: Choose

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: managers.PreservationContext
    ) -> Sequence[bool]:
        """Return for each checkpoint whether to keep it."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        chosen = set(self.choose(steps))
        return [step in chosen for step in steps]


class Writer(contextlib.AbstractContextManager):
    """Saves the checkpoints of one folder asynchronously and atomically."""

    def __init__(
        self, folder: Path, keep: int, choose: Choose, before_naming: Callable[[], None]
    ) -> None:
        """Open the folder and remove incomplete checkpoints of a killed process.

        Args:
          folder: of the checkpoints; it exists.
          keep: number of newest checkpoints to keep.
          choose: returns further checkpoints to keep.
          before_naming: called when all files of a checkpoint are written, before Orbax gives the
            checkpoint its name.
        """
        self.folder = folder
        policies = [managers.LatestN(keep), _Kept(choose)]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy(policies),
            create=jax.process_count() == 1,
            cleanup_tmp_directories=True,
            multiprocessing_options=_by_itself(),
            async_options=ocp.AsyncOptions(post_finalization_callback=before_naming),
        )
        self._manager = ocp.CheckpointManager(folder, options=options)

    def save(self, step: int, state: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        """Start saving a checkpoint.

        Raises: the exception of the previous save, if it failed.
        """
        arrays = ocp.args.StandardSave(state)  # type: ignore[call-arg]
        saved = ocp.args.JsonSave(run)  # type: ignore[call-arg]
        self._manager.save(step, args=ocp.args.Composite(state=arrays, run=saved))

    def wait_until_finished(self) -> None:
        """Wait until the last save is on the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until the last save is on the disk, and close the folder."""
        self._manager.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def is_complete(folder: Path) -> bool:
    """Return whether a checkpoint in a bucket is complete."""
    return ocp.utils.is_checkpoint_finalized(folder)


def read_run(folder: Path) -> Any:
    """Read the item `run` of a checkpoint."""
    return _read(folder, ocp.args.Composite(run=ocp.args.JsonRestore())).run


def read_state(folder: Path, like: Mapping[str, Any] | None = None) -> Any:
    """Read the item `state` of a checkpoint as NumPy arrays.

    Args:
      folder: of the checkpoint.
      like: arrays of the state's structure; None takes the structure that was saved.
    """
    if like is None:
        wanted: Any = ocp.args.PyTreeRestore()  # type: ignore[call-arg]
    else:
        wanted = ocp.args.StandardRestore(like)  # type: ignore[call-arg]
    return _read(folder, ocp.args.Composite(state=wanted)).state


def declared_arrays(folder: Path) -> list[Any]:
    """Return the shapes and types of a checkpoint's arrays, without reading the arrays."""
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=_by_itself())
    return jax.tree.leaves(handler.metadata(folder / "state").tree)


def _read(folder: Path, wanted: ocp.args.Composite) -> Any:
    handler = ocp.CompositeCheckpointHandler()
    with ocp.Checkpointer(handler, multiprocessing_options=_by_itself()) as reader:
        return reader.restore(folder, args=wanted)


def _by_itself() -> MultiprocessingOptions:
    """Return options with which Orbax does not wait for other processes."""
    if jax.process_count() == 1:
        return MultiprocessingOptions()
    own = jax.process_index()
    return MultiprocessingOptions(primary_host=own, active_processes={own})


def wait_for_processes(name: str, seconds: int) -> None:
    """Wait until all processes have called this with the same name.

    Raises: an exception of JAX if a process has not called it within the given seconds.
    """
    everyone = set(range(jax.process_count()))
    multihost.sync_global_processes(name, timeout=seconds, processes=everyone)
