"""The training loop (section 4.4)."""

import contextlib
import functools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from clu import parameter_overview

from batnet_jax import checkpoint, devices, hosts
from batnet_jax.collection import Collection, Identity
from batnet_jax.data.loader import prefetch
from batnet_jax.data.sampler import epoch_plan, steps_per_epoch
from batnet_jax.errors import UserError
from batnet_jax.evaluate import check_architecture, evaluate_trials, make_embed, open_store
from batnet_jax.interruption import Sigterm, Terminated, is_agreed
from batnet_jax.journal import Journal, NoJournal, progress_bar
from batnet_jax.models.layers import AXIS
from batnet_jax.pretrained import initialise
from batnet_jax.profiling import StepTrace
from batnet_jax.steps import Recipe, TrainState, init_state, make_recipe, train_step
from batnet_jax.workdir import check_workdir, locked, open_workdir

INIT = "init.txt"


class Schedule(NamedTuple):
    """A run in steps.

    Attributes:
      steps_per_epoch: see `sampler`.
      total: steps of the whole run.
    """

    steps_per_epoch: int
    total: int

    def is_due(self, step: int, every_epochs: int) -> bool:
        """Whether `step` ends an epoch whose number `every_epochs` divides (0: only the last)."""
        if step == self.total:
            return True
        return bool(every_epochs) and step % (every_epochs * self.steps_per_epoch) == 0


def train(config: ml_collections.ConfigDict, data: Collection, workdir: Path) -> dict[str, Any]:
    """Trains from what the workdir holds to the end, and evaluates.

    Where identities are held out of training, the evaluations on the way are on these, so that
    nobody selects on the test set; at the end come both.

    Args:
      config: validated.
      data: prepared.
      workdir: written to: `config.json`, `labels.json`, `parameters.txt`, `metrics.jsonl`,
        `tensorboard/`, `checkpoints/`, `eval/`.
    Returns: the last evaluation's result, on the first test.

    Raises:
      UserError: if the batch cannot be divided among the devices, or the workdir cannot be written
        to, holds a run with other settings or with more steps, or is in use; nothing has been
        overwritten then.
      Terminated: after SIGTERM; the steps taken are saved.
      FloatingPointError: if the loss is not finite.
    """
    check_run(config, workdir)
    schedule = plan_schedule(config, data.train[1])
    with contextlib.ExitStack() as stack, Sigterm().listen() as sigterm:
        hosts.by_lead(lambda: stack.enter_context(locked(workdir)))
        return _train(config, data, schedule, workdir, sigterm)


def _train(
    config: ml_collections.ConfigDict,
    data: Collection,
    schedule: Schedule,
    workdir: Path,
    sigterm: Sigterm,
) -> dict[str, Any]:
    """`train`, once nobody else can."""
    images, labels, identities = data.train
    recipe = make_recipe(
        config,
        num_identities=len(identities),
        steps_per_epoch=schedule.steps_per_epoch,
        axis_name=AXIS if jax.device_count() > 1 else None,
    )
    run = checkpoint.facts(config, [list(who) for who in identities])
    state = hosts.by_lead(lambda: open_run(config, recipe, schedule, workdir, run))

    def evaluate_now(state: TrainState, step: int) -> dict[str, Any]:
        at_end = step == schedule.total
        trials = [*data.val, *(data.tests if at_end or not data.val else [])]
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        embed = make_embed(recipe.model, jax.device_get(variables))
        results = evaluate_trials(config, trials, embed, step=step, workdir=workdir)
        for result in results:
            journal.write_evaluation(result)
        journal.publish()
        return results[len(data.val) if at_end else 0]

    def save(step: int, state: TrainState) -> None:
        journal.publish()
        checkpoint.save(manager, step, state, run)

    result = None
    first = int(state.step)
    journal = Journal(workdir, first) if hosts.is_lead() else NoJournal()
    manager = checkpoint.open_manager(workdir, keep=config.checkpoint.keep)
    trace = StepTrace(workdir / "profile", first)
    with open_store(config, images) as store, sigterm.held(), contextlib.closing(manager):
        for step, state in run_steps(config, recipe, schedule, state, store, labels, journal):  # noqa: B020
            if config.profile and hosts.is_lead():
                trace.after(step)
            saved = schedule.is_due(step, config.checkpoint.every_epochs)
            if saved:
                save(step, state)
            try:
                with sigterm.held(False):
                    if sigterm.wanted or is_agreed():
                        raise Terminated
                    if schedule.is_due(step, config.eval.every_epochs):
                        result = evaluate_now(state, step)
            except Terminated:
                if not saved:
                    save(step, state)
                manager.wait_until_finished()
                print(f"ended by SIGTERM after step {step}, which is saved")
                raise
        trace.stop()
        manager.wait_until_finished()
    print(f"trained {schedule.total} steps, all in '{workdir}'")
    result = result or evaluate_now(state, schedule.total)
    journal.close()
    return result


def open_run(
    config: ml_collections.ConfigDict,
    recipe: Recipe,
    schedule: Schedule,
    workdir: Path,
    run: dict[str, Any],
) -> TrainState:
    """The state to go on from; the workdir then says what run it holds.

    Args:
      config: of the run.
      recipe: gives the fresh state.
      schedule: see `plan_schedule`.
      workdir: of the run.
      run: the facts that checkpoints are saved with.

    Raises: UserError if the workdir holds a run with more steps, or another's checkpoints.
    """
    state, report = init_state(recipe, tuple(config.data.image_size)), ""
    if checkpoint.latest_step(workdir) is None:
        state, report = start_from(config, state, run)
    else:
        state = resume(config, workdir, state, run)
        check_steps_left(schedule, int(state.step), workdir)
    open_workdir(config, workdir, [Identity(*who) for who in run["identities"]])
    if report:
        (workdir / INIT).write_text(report)
    overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    (workdir / "parameters.txt").write_text(str(overview) + "\n")
    return state


def run_steps(
    config: ml_collections.ConfigDict,
    recipe: Recipe,
    schedule: Schedule,
    state: TrainState,
    store: Any,
    labels: np.ndarray,
    journal: Journal | NoJournal,
) -> Iterator[tuple[int, TrainState]]:
    """Takes the steps that are left; yields (steps taken, state) after each.

    Of each batch a process loads the images of its own devices.

    A yielded state is valid until the next is asked for: its buffers are donated then.
    """
    step_fn = jax.pmap(
        functools.partial(train_step, recipe=recipe),
        AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),  # type: ignore[arg-type]
        donate_argnums=0,
    )
    first = int(state.step)
    state = devices.replicate(state)
    size = config.batch.identities * config.batch.images_per_identity
    own = devices.own_rows(size)
    plan = (row[own] for row in batches(config, labels, first, schedule))
    with (
        prefetch(store, plan) as loaded,
        progress_bar(schedule.total * size, description="train", initial=first * size) as bar,
    ):
        window = Window(schedule, size)
        for step, (indices, images) in enumerate(loaded, first + 1):
            batch = {"image": images, "label": labels[indices].astype(np.int32)}
            state, metrics = step_fn(state, jax.tree.map(devices.split, batch))
            window.add(metrics)
            bar.update(size)
            if step % config.log.every_steps == 0 or step == schedule.total:
                figures = window.close(step, loaded.wait_seconds)
                journal.write(figures)
                bar.set_postfix_str(f"loss {figures['loss']:.3f}", refresh=False)
            with window.paused():
                yield step, state


class Window:
    """The steps between two lines of metrics.jsonl; nothing waits for the device before `close`."""

    def __init__(self, schedule: Schedule, batch_size: int):
        """Starts the clock."""
        self._schedule = schedule
        self._batch_size = batch_size
        self._waited = 0.0
        self._restart()

    def _restart(self) -> None:
        self._metrics: list[dict[str, jax.Array]] = []
        self._start = time.perf_counter()

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Adds a step's metrics, still on the device."""
        self._metrics.append(metrics)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent within (checkpoints, evaluation) does not count as training."""
        before = time.perf_counter()
        yield
        self._start += time.perf_counter() - before

    def close(self, step: int, wait_seconds: float) -> dict[str, Any]:
        """The window's means, and a new window.

        Args:
          step: steps taken.
          wait_seconds: that the loop has waited for data since its beginning.
        Returns: a line of metrics.jsonl: `step`, `epoch` (from 0), `loss`, `loss_ce`,
          `loss_triplet` (means), `lr` (the last), `images_per_second`, and `data_wait`, the share
          of the time that the loop waited for data.
        Raises: FloatingPointError if a loss of the window is not finite.
        """
        taken = jax.device_get(self._metrics)
        seconds = time.perf_counter() - self._start
        first = step - len(taken) + 1
        for number, metrics in enumerate(taken, first):
            if not np.isfinite(metrics["loss"]):
                raise FloatingPointError(
                    f"the loss is {metrics['loss']} at step {number}: lower config.learning_rate, "
                    "or look at the images; the last checkpoint is kept"
                )
        means = {name: float(np.mean([m[name] for m in taken])) for name in taken[0]}
        figures = {
            "step": step,
            "epoch": (step - 1) // self._schedule.steps_per_epoch,
            **means,
            "lr": float(taken[-1]["lr"]),
            "images_per_second": len(taken) * self._batch_size / seconds,
            "data_wait": (wait_seconds - self._waited) / seconds,
        }
        self._waited = wait_seconds
        self._restart()
        return figures


def batches(
    config: ml_collections.ConfigDict, labels: np.ndarray, first: int, schedule: Schedule
) -> Iterator[np.ndarray]:
    """The index rows of the steps `first`, ..., total - 1: a pure function of the seed."""
    epoch, skipped = divmod(first, schedule.steps_per_epoch)
    step = first
    while step < schedule.total:
        plan = epoch_plan(labels, **config.batch, seed=config.seed, epoch=epoch)
        for row in plan[skipped : skipped + schedule.total - step]:
            yield row
            step += 1
        epoch, skipped = epoch + 1, 0


def plan_schedule(config: ml_collections.ConfigDict, labels: np.ndarray) -> Schedule:
    """The run's length.

    Raises: UserError if the training set has fewer identities than a batch.
    """
    epoch = steps_per_epoch(labels, **config.batch)
    return Schedule(epoch, config.steps or config.num_epochs * epoch)


def check_steps_left(schedule: Schedule, taken: int, workdir: Path) -> None:
    """Refuses to go on with a run that is already longer.

    Raises: UserError with both numbers.
    """
    if taken > schedule.total:
        raise UserError(
            f"'{workdir}' has been trained for {taken} steps, more than the {schedule.total} asked "
            f"for: use --mode=eval for its results, a config.steps of at least {taken}, or another "
            "--workdir"
        )


def check_batch(config: ml_collections.ConfigDict) -> None:
    """Refuses a batch that the devices cannot share evenly.

    Raises: UserError with the numbers.
    """
    size = config.batch.identities * config.batch.images_per_identity
    count = jax.device_count()
    if size % count:
        raise UserError(
            f"a batch of {config.batch.identities} x {config.batch.images_per_identity} = {size} "
            f"images does not divide among {count} devices: change config.batch.identities"
        )


def check_run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """What can be refused before the data set is prepared; writes nothing.

    Raises: UserError if the devices cannot share the batch, the workdir cannot be written to or
      holds a run with other settings, or the weights to start from are not there.
    """
    check_batch(config)

    def check_files() -> None:
        check_workdir(config, workdir)
        source = config.init["from"]
        if source and checkpoint.latest_step(workdir) is None and not Path(source).exists():
            raise UserError(f"config.init.from={source!r} does not exist: name a file or a workdir")

    hosts.by_lead(check_files)


def start_from(
    config: ml_collections.ConfigDict, fresh: TrainState, run: dict[str, Any]
) -> tuple[TrainState, str]:
    """The fresh state with the weights of `config.init.from`, if it names any.

    Returns: the state, and a line for each tensor that says where it is from; "" without a source.
    Raises: UserError if the source cannot be read, or is of another network.
    """
    source = config.init["from"]
    if not source:
        return fresh, ""
    variables = {"params": fresh.params, "batch_stats": fresh.batch_stats}
    filled, report = initialise(config, variables, Path(source), identities=run["identities"])
    print(f"{report.summary()}; see {INIT}")
    return fresh.replace(**filled), report.text()  # type: ignore[attr-defined]


def resume(
    config: ml_collections.ConfigDict, workdir: Path, fresh: TrainState, run: dict[str, Any]
) -> TrainState:
    """The latest checkpoint's state.

    Args:
      config: of the run.
      workdir: of the run; holds a checkpoint.
      fresh: a state of the same structure.
      run: the facts that checkpoints are saved with.

    Raises: UserError if the checkpoint cannot be read, is of another architecture, or was trained
      on other identities.
    """
    while True:
        step = checkpoint.choose_step(workdir, 0)
        try:
            saved = checkpoint.restore_run(workdir, step)
            check_architecture(config, saved, workdir)
            state = checkpoint.restore_state(workdir, step, fresh)
            break
        except checkpoint.DamagedError as error:
            if len(checkpoint.steps_of(workdir)) == 1:
                raise
            moved = checkpoint.set_aside(workdir, step)
            print(f"warning: {error}; it is now '{moved}', the one before is used", file=sys.stderr)
    if saved["identities"] != run["identities"]:
        raise UserError(
            f"'{workdir}' was trained on {len(saved['identities'])} identities that are not the "
            f"{len(run['identities'])} of the training data now: restore the data, or name another "
            "--workdir"
        )
    print(f"resuming '{workdir}' after step {step}")
    return state
