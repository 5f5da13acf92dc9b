"""The training loop (section 4.4)."""

import contextlib
import functools
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from batnet_jax import checkpoint, devices, hosts, selection
from batnet_jax.collection import Collection, Trial, fingerprints
from batnet_jax.data.loader import prefetch
from batnet_jax.evaluate import evaluate_trials, is_evaluated, make_embed, open_store
from batnet_jax.failures import EVALUATION_MEMORY, TRAINING_MEMORY, told
from batnet_jax.finite import Suspects
from batnet_jax.interruption import Sigterm, Terminated, is_agreed
from batnet_jax.journal import Journal, NoJournal, progress_bar
from batnet_jax.models.layers import AXIS
from batnet_jax.packing import pack_state, unpack_state
from batnet_jax.profiling import StepTrace
from batnet_jax.schedule import Schedule, batch_size, batches, plan_schedule
from batnet_jax.starting import check_run, open_run
from batnet_jax.steps import Recipe, TrainState, make_recipe, train_step
from batnet_jax.window import Window
from batnet_jax.workdir import locked


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
            embed = make_embed(recipe.model, unpack_state(jax.device_get(variables)))
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
    journal: Journal | NoJournal,
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
