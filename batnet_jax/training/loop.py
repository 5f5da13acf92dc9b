"""The training loop (section 4.4)."""

import contextlib
import functools
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from batnet_jax.data.loading.loader import prefetch
from batnet_jax.data.run_data import RetrievalTest, RunData, fingerprints, open_store
from batnet_jax.evaluation.embed import make_embed
from batnet_jax.evaluation.evaluate import is_evaluated, run_tests
from batnet_jax.runtime import devices, processes
from batnet_jax.runtime.devices import AXIS
from batnet_jax.runtime.preemption import Sigterm, Terminated, is_agreed
from batnet_jax.runtime.progress import progress_bar
from batnet_jax.runtime.resource_errors import EVALUATION_MEMORY, TRAINING_MEMORY, as_run_failure
from batnet_jax.step.packing import pack_state, unpack_state
from batnet_jax.step.train_step import Recipe, TrainState, make_recipe, train_step
from batnet_jax.training.non_finite import NonFiniteReport
from batnet_jax.training.profiling import StepTrace
from batnet_jax.training.run_length import Schedule, batch_size, batches, plan_schedule
from batnet_jax.training.start import check_run, open_run
from batnet_jax.training.window import Window
from batnet_jax.workdir import best_checkpoint, checkpoints
from batnet_jax.workdir.metrics_log import MetricsLog, NoMetricsLog
from batnet_jax.workdir.run_folder import locked


def train(config: ml_collections.ConfigDict, data: RunData, workdir: Path) -> dict[str, Any]:
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
        as_run_failure(workdir, lower=TRAINING_MEMORY),
    ):
        processes.by_lead(lambda: stack.enter_context(locked(workdir)))
        return _train(config, data, schedule, workdir, sigterm)


def _train(
    config: ml_collections.ConfigDict,
    data: RunData,
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
    run = checkpoints.facts(config, [list(who) for who in identities], fingerprints(data))
    state = processes.by_lead(lambda: open_run(config, recipe, schedule, workdir, run))

    def tests_at(step: int) -> list[RetrievalTest]:
        return [*data.val, *(data.tests if step == schedule.total or not data.val else [])]

    def evaluate_now(state: TrainState, step: int) -> dict[str, Any]:
        tests = tests_at(step)
        with as_run_failure(workdir, lower=EVALUATION_MEMORY):
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            embed = make_embed(recipe.model, unpack_state(jax.device_get(variables)))
            results = run_tests(config, tests, embed, step=step, workdir=workdir)
        if processes.is_lead():
            best_checkpoint.record(workdir, step, results)
        for result in results:
            journal.write_evaluation(result)
        journal.publish()
        return results[len(data.val) if step == schedule.total else 0]

    def save(step: int, state: TrainState) -> None:
        journal.publish()
        checkpoints.save(manager, step, window.sound(step, state), run)

    result = None
    first = int(state.step)
    journal = MetricsLog(workdir, first) if processes.is_lead() else NoMetricsLog()
    manager = checkpoints.open_manager(
        workdir, keep=config.checkpoint.keep, keep_best=config.checkpoint.keep_best
    )
    trace = StepTrace(workdir / "profile", first)
    with contextlib.closing(journal), contextlib.closing(manager):
        evaluated = processes.by_lead(lambda: is_evaluated(workdir, tests_at(first), first))
        if first % schedule.total and schedule.is_due(first, config.eval.every_epochs) > evaluated:
            evaluate_now(state, first)  # in which the run was ended
        window = Window(
            schedule, batch_size(config), NonFiniteReport(workdir, images.filenames, labels)
        )
        with (
            open_store(config, images) as store,
            sigterm.held(),
            contextlib.closing(
                run_steps(config, recipe, schedule, state, store, labels, journal, window)
            ) as steps,
        ):
            for step, state in steps:
                if config.profile and processes.is_lead():
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


def pmap_step(recipe: Recipe) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """`train_step` on all devices: (state, batch split by `devices.split`) to (state, metrics).

    The state has no axis of devices, is packed for speed, and its buffers are donated.
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
    journal: MetricsLog | NoMetricsLog,
    window: Window,
) -> Generator[tuple[int, TrainState], None, None]:
    """Takes the steps that are left; yields (steps taken, state) after each.

    Of each batch a process loads the images of its own devices.

    A yielded state is packed, and valid until the next is asked for: its buffers are donated then.
    """
    step_fn = pmap_step(recipe)
    first = int(state.step)
    state = devices.replicate(pack_state(state))
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
