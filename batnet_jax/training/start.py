"""The state that a run starts from: fresh, with another run's weights, or the latest checkpoint."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_collections
from clu import parameter_overview

from batnet_jax.data.run_data import Identity
from batnet_jax.errors import ArgumentError, UserError, printable
from batnet_jax.runtime import processes
from batnet_jax.runtime.paths import exists
from batnet_jax.step.train_step import Recipe, TrainState, init_state
from batnet_jax.training.run_length import RunLength, check_batch, check_steps_left
from batnet_jax.validation import as_flags
from batnet_jax.weights import initialise
from batnet_jax.weights.sources import OtherNetworkError
from batnet_jax.workdir import checkpoints, environment
from batnet_jax.workdir.gcs import write_whole
from batnet_jax.workdir.run_folder import check_workdir, open_workdir
from batnet_jax.workdir.same_run import (
    check_architecture,
    check_training_data,
    warn_of_other_tests,
)

INIT = "init.txt"


def check_run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Check all that can be checked before the data set is prepared; write nothing.

    Raises: UserError if the devices cannot share the batch, if the workdir cannot be written to or
      holds a run with other settings, or if the weights to start from do not exist.
    """
    check_batch(config)

    def check_files() -> None:
        check_workdir(config, workdir)
        source = config.init["from"]
        if source and checkpoints.latest_step(workdir) is None and not exists(Path(source)):
            raise UserError(f"config.init.from={source!r} does not exist: name a file or a workdir")

    processes.by_lead(check_files)


def open_run(
    config: ml_collections.ConfigDict,
    recipe: Recipe,
    length: RunLength,
    workdir: Path,
    metadata: dict[str, Any],
) -> TrainState:
    """Return the state to continue from, and write the run's settings to the workdir.

    Args:
      config: of the run.
      recipe: describes the fresh state.
      length: see `plan_run`.
      workdir: of the run.
      metadata: see `checkpoints.metadata`.

    Raises: UserError if the workdir holds a run with more steps, or another run's checkpoints.
    """
    make_fresh = functools.partial(fresh_state, config, recipe)
    if checkpoints.latest_step(workdir) is None:
        state, report = start_from(config, make_fresh(), metadata)
    else:
        state, report = resume(config, workdir, make_fresh, metadata), ""
        check_steps_left(length, int(state.step), workdir)
    open_workdir(config, workdir, [Identity(*who) for who in metadata["identities"]])
    environment.record(workdir, seed=config.seed, step=int(state.step))
    if report:
        write_whole(workdir / INIT, report)
    overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    write_whole(workdir / "parameters.txt", f"{overview}\n")
    return state


def fresh_state(config: ml_collections.ConfigDict, recipe: Recipe) -> TrainState:
    """Return the state of a run before its first step, without other weights."""
    return init_state(recipe, tuple(config.data.image_size))


def start_from(
    config: ml_collections.ConfigDict, fresh: TrainState, metadata: dict[str, Any]
) -> tuple[TrainState, str]:
    """Fill the fresh state with the weights of `config.init.from`, if it names any.

    Returns: the state, and a report with a line for each tensor, which names the tensor's source.
      The report is "" if `config.init.from` names nothing.
    Raises: UserError if the weights cannot be read, or belong to another network.
    """
    source = config.init["from"]
    if not source:
        if config.train.freeze:
            print(
                f"warning: config.train.freeze={config.train.freeze} keeps random values: name "
                "weights by config.init.from",
                file=sys.stderr,
            )
        return fresh, ""
    variables = {"params": fresh.params, "batch_stats": fresh.batch_stats}
    try:
        filled, report = initialise(
            config, variables, Path(source), identities=metadata["identities"]
        )
    except OtherNetworkError as error:
        raise UserError(f"{error}: pass {as_flags('model', error.found)}") from error
    except ArgumentError as error:
        raise UserError(f"{error} (--config.init.{error.argument}=...)") from error
    print(printable(f"{report.summary()}; see {INIT}"))
    return fresh.start_with(filled), report.text()


def resume(
    config: ml_collections.ConfigDict,
    workdir: Path,
    make_fresh: Callable[[], TrainState],
    metadata: dict[str, Any],
) -> TrainState:
    """Return the state of the latest checkpoint that is not damaged.

    The metadata of a checkpoint is compared with the run before an array is read. Damaged
    checkpoints are set aside when an earlier one is used; otherwise nothing is moved.

    Args:
      config: of the run.
      workdir: of the run; holds a checkpoint.
      make_fresh: returns a state of the same structure.
      metadata: see `checkpoints.metadata`.

    Raises: UserError if every checkpoint is damaged, or if the latest whole one is of another
      architecture or was trained on other images or identities.
    """
    make_fresh = functools.cache(make_fresh)
    damaged = {}
    for step in reversed(checkpoints.steps_of(workdir)):
        try:
            saved = checkpoints.restore_metadata(workdir, step)
            check_architecture(config, saved, workdir)
            check_training_data(saved, metadata, workdir)
            state = checkpoints.restore_state(workdir, step, make_fresh())
            break
        except checkpoints.DamagedError as error:
            damaged[step] = error
    else:
        raise next(iter(damaged.values()))
    for bad, error in damaged.items():
        moved = checkpoints.set_aside(workdir, bad)
        line = f"warning: {error}; it is now '{moved}', the one before is used"
        print(printable(line), file=sys.stderr)
    warn_of_other_tests(saved, metadata, workdir)
    print(printable(f"resuming '{workdir}' after step {step}"))
    return state
