"""The training loop (section 4.4)."""

import contextlib
import functools
import itertools
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from clu import parameter_overview

from batnet_jax import checkpoint, devices, environment, hosts, selection
from batnet_jax.collection import Collection, Identity, Trial, fingerprints
from batnet_jax.data.loader import prefetch
from batnet_jax.data.sampler import epoch_plan, steps_per_epoch
from batnet_jax.errors import UserError
from batnet_jax.evaluate import (
    check_architecture,
    evaluate_trials,
    is_evaluated,
    make_embed,
    open_store,
)
from batnet_jax.failures import EVALUATION_MEMORY, TRAINING_MEMORY, told
from batnet_jax.finite import Suspects, first_bad
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
      NotFiniteError: if the loss or a parameter is not finite.
      RunFailure: if the disk or the memory is full.
    """
    check_run(config, workdir)
    schedule = plan_schedule(config, data.train[1])
    with (
        contextlib.ExitStack() as stack,
        Sigterm().listen() as sigterm,
        told(workdir, lower=TRAINING_MEMORY),
    ):
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
    run = checkpoint.facts(config, [list(who) for who in identities], fingerprints(data))
    state = hosts.by_lead(lambda: open_run(config, recipe, schedule, workdir, run))

    def trials_at(step: int) -> list[Trial]:
        return [*data.val, *(data.tests if step == schedule.total or not data.val else [])]

    def evaluate_now(state: TrainState, step: int) -> dict[str, Any]:
        trials = trials_at(step)
        with told(workdir, lower=EVALUATION_MEMORY):
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            embed = make_embed(recipe.model, jax.device_get(variables))
            results = evaluate_trials(config, trials, embed, step=step, workdir=workdir)
        if hosts.is_lead():
            selection.record(workdir, step, results)
        for result in results:
            journal.write_evaluation(result)
        journal.publish()
        return results[len(data.val) if step == schedule.total else 0]

    def save(step: int, state: TrainState) -> None:
        journal.publish()
        checkpoint.save(manager, step, window.sound(step, state), run)

    result = None
    first = int(state.step)
    journal = Journal(workdir, first) if hosts.is_lead() else NoJournal()
    manager = checkpoint.open_manager(
        workdir, keep=config.checkpoint.keep, keep_best=config.checkpoint.keep_best
    )
    trace = StepTrace(workdir / "profile", first)
    with contextlib.closing(journal), contextlib.closing(manager):
        evaluated = hosts.by_lead(lambda: is_evaluated(workdir, trials_at(first), first))
        if first % schedule.total and schedule.is_due(first, config.eval.every_epochs) > evaluated:
            evaluate_now(state, first)  # in which the run was ended
        window = Window(schedule, batch_size(config), Suspects(workdir, images.filenames, labels))
        with (
            open_store(config, images) as store,
            sigterm.held(),
            contextlib.closing(
                run_steps(config, recipe, schedule, state, store, labels, journal, window)
            ) as steps,
        ):
            for step, state in steps:
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
        return result or evaluate_now(state, schedule.total)


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
    environment.record(workdir, seed=config.seed, step=int(state.step))
    if report:
        (workdir / INIT).write_text(report)
    overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    (workdir / "parameters.txt").write_text(str(overview) + "\n")
    return state


def pmap_step(recipe: Recipe) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """`train_step` on all devices: (state, batch split by `devices.split`) to (state, metrics).

    The state has no axis of devices; its buffers are donated.
    """
    return jax.pmap(
        functools.partial(train_step, recipe=recipe),
        AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),  # type: ignore[arg-type]
        donate_argnums=0,
    )


def run_steps(
    config: ml_collections.ConfigDict,
    recipe: Recipe,
    schedule: Schedule,
    state: TrainState,
    store: Any,
    labels: np.ndarray,
    journal: Journal | NoJournal,
    window: "Window",
) -> Generator[tuple[int, TrainState], None, None]:
    """Takes the steps that are left; yields (steps taken, state) after each.

    Of each batch a process loads the images of its own devices.

    A yielded state is valid until the next is asked for: its buffers are donated then.
    """
    step_fn = pmap_step(recipe)
    first = int(state.step)
    state = devices.replicate(state)
    size = batch_size(config)
    own = devices.own_rows(size)
    plan = (row[own] for row in batches(config, labels, first, schedule))
    with (
        prefetch(store, plan) as loaded,
        progress_bar(schedule.total * size, description="train", initial=first * size) as bar,
    ):
        rows = batches(config, labels, first, schedule)
        for step, ((own_row, images), row) in enumerate(zip(loaded, rows, strict=False), first + 1):
            batch = {"image": images, "label": labels[own_row].astype(np.int32)}
            state, metrics = step_fn(state, jax.tree.map(devices.split, batch))
            window.add(metrics, row)
            bar.update(size)
            if step % config.log.every_steps == 0 or step == schedule.total:
                figures = window.close(step, loaded.wait_seconds)
                journal.write(figures)
                bar.set_postfix_str(f"loss {figures['loss']:.3f}", refresh=False)
            with window.paused():
                yield step, state


class Window:
    """The steps between two lines of metrics.jsonl; nothing waits for the device before `close`."""

    def __init__(self, schedule: Schedule, batch_size: int, suspects: Suspects):
        """Starts the clock.

        Args:
          schedule: of the run.
          batch_size: images a step.
          suspects: names the images if a loss is not finite.
        """
        self._schedule = schedule
        self._batch_size = batch_size
        self._suspects = suspects
        self._waited = 0.0
        self._restart()

    def _restart(self) -> None:
        self._metrics: list[dict[str, jax.Array]] = []
        self._rows: list[np.ndarray] = []
        self._start = time.perf_counter()

    def add(self, metrics: dict[str, jax.Array], row: np.ndarray) -> None:
        """Adds a step's metrics, still on the device, and the indices of its images."""
        self._metrics.append(metrics)
        self._rows.append(row)
        self._last_row = row

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
        Raises: NotFiniteError if a loss of the window is not finite.
        """
        taken = self.check(step)
        seconds = time.perf_counter() - self._start
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

    def check(self, step: int) -> list[dict[str, Any]]:
        """Waits for the window's steps, of which `step` is the last; returns their metrics.

        Raises: NotFiniteError if a loss of the window is not finite.
        """
        taken = jax.device_get(self._metrics)
        first = step - len(taken) + 1
        for number, metrics, row in zip(itertools.count(first), taken, self._rows, strict=False):
            if not np.isfinite(metrics["loss"]):
                figures = {name: float(value) for name, value in metrics.items()}
                raise self._suspects.loss(number, figures, row)
        return taken

    def sound(self, step: int, state: TrainState) -> TrainState:
        """Fetches a state to save it, so that a checkpoint never holds NaN or infinity.

        Args:
          step: the last of the window.
          state: after it, on the device.
        Returns: the state on the host.
        Raises: NotFiniteError naming the first step that went wrong.
        """
        fetched = jax.device_get(state)
        if name := first_bad(fetched):
            self.check(step)
            raise self._suspects.state(step, name, self._last_row)
        return fetched


def shape_of(config: ml_collections.ConfigDict) -> dict[str, int]:
    """P and K, as the functions of `sampler` call them."""
    return {name: config.batch[name] for name in ("identities", "images_per_identity")}


def batches(
    config: ml_collections.ConfigDict, labels: np.ndarray, first: int, schedule: Schedule
) -> Iterator[np.ndarray]:
    """The index rows of the steps `first`, ..., total - 1: a pure function of the seed."""
    epoch, skipped = divmod(first, schedule.steps_per_epoch)
    step = first
    while step < schedule.total:
        plan = epoch_plan(labels, **shape_of(config), seed=config.seed, epoch=epoch)
        for row in plan[skipped : skipped + schedule.total - step]:
            yield row
            step += 1
        epoch, skipped = epoch + 1, 0


def plan_schedule(config: ml_collections.ConfigDict, labels: np.ndarray) -> Schedule:
    """The run's length.

    Raises: UserError if the training set has fewer identities than a batch, or the run goes on
      where a cosine has brought the learning rate to 0.
    """
    epoch = steps_per_epoch(labels, **shape_of(config))
    whole = config.num_epochs * epoch
    if config.schedule == "cosine" and config.steps > whole:
        raise UserError(
            f"config.steps={config.steps} is more than the {whole} of "
            f"config.num_epochs={config.num_epochs}, after which the cosine is 0: give fewer steps "
            "or more epochs"
        )
    return Schedule(epoch, config.steps or whole)


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


def batch_size(config: ml_collections.ConfigDict) -> int:
    """Images a step, over all devices."""
    return config.batch.identities * config.batch.images_per_identity


def check_batch(config: ml_collections.ConfigDict) -> None:
    """Refuses a batch that the devices, or a device's parts, cannot share evenly.

    Raises: UserError with the numbers.
    """
    size = batch_size(config)
    batch = f"a batch of {config.batch.identities} x {config.batch.images_per_identity} = {size}"
    count, parts = jax.device_count(), config.batch.accumulate
    if size % count:
        raise UserError(
            f"{batch} images does not divide among {count} devices: change config.batch.identities"
        )
    if size % (count * parts):
        raise UserError(
            f"{batch} images, {size // count} on each of {count} devices, does not divide into "
            f"config.batch.accumulate={parts} parts: choose a divisor of {size // count}"
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
    check_data(saved.get("data", {}), run["data"], workdir)
    if saved["identities"] != run["identities"]:
        raise UserError(
            f"'{workdir}' was trained on {len(saved['identities'])} identities that are not the "
            f"{len(run['identities'])} of the training data now: restore the data, or name another "
            "--workdir"
        )
    print(f"resuming '{workdir}' after step {step}")
    return state


def check_data(saved: dict[str, str], now: dict[str, str], workdir: Path) -> None:
    """Refuses to go on with other training images; warns of other test images.

    Args:
      saved: `fingerprints` of the data of the checkpoint; {} in one of an older version.
      now: of the data now.
      workdir: for the message.

    Raises: UserError with both fingerprints.
    """
    changed = [name for name in saved if saved[name] != now.get(name, saved[name])]
    if "train" in changed:
        raise UserError(
            f"'{workdir}' was trained on other images (fingerprint {saved['train']}, now "
            f"{now['train']}): restore the data set, or name another --workdir"
        )
    for name in changed:
        print(
            f"warning: the images of {name} have changed since '{workdir}' was last saved: "
            "figures before and after do not compare",
            file=sys.stderr,
        )
