"""The training loop (section 4.4)."""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from batnet_jax.data.loading.loader import ImageStore, Prefetcher, prefetch
from batnet_jax.data.run_data import RetrievalTest, RunData, fingerprints, open_store
from batnet_jax.errors import printable
from batnet_jax.evaluation.embed import Embed, make_embed
from batnet_jax.evaluation.evaluate import is_evaluated, run_tests
from batnet_jax.models import BATNet
from batnet_jax.runtime import devices, processes
from batnet_jax.runtime.compile_time import compiling
from batnet_jax.runtime.devices import AXIS
from batnet_jax.runtime.preemption import is_agreed
from batnet_jax.runtime.resource_errors import as_run_failure
from batnet_jax.runtime.signals import Signals, Terminated
from batnet_jax.step.packing import pack_state, unpack_state
from batnet_jax.step.train_step import Recipe, TrainState, make_recipe, train_step
from batnet_jax.training.non_finite import NonFiniteReport
from batnet_jax.training.profiling import StepTrace
from batnet_jax.training.progress import TrainingProgress
from batnet_jax.training.run_length import RunLength, batch_size, batches, plan_run
from batnet_jax.training.start import check_run, fresh_state, open_run
from batnet_jax.training.window import Window
from batnet_jax.validation import EVALUATION_MEMORY, TRAINING_MEMORY
from batnet_jax.workdir import best_checkpoint, checkpoints
from batnet_jax.workdir.metrics_log import MetricsLog, NoMetricsLog
from batnet_jax.workdir.results import last_mean_ap
from batnet_jax.workdir.run_folder import locked

StepFunction = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def train(config: ml_collections.ConfigDict, data: RunData, workdir: Path) -> dict[str, Any]:
    """Train from the workdir's latest checkpoint, or from the start, to the end; then evaluate.

    If identities are held out of training, only they are evaluated during the run, so that no
    checkpoint is selected on the test set. The last evaluation also uses the test set.

    Args:
      config: validated.
      data: prepared.
      workdir: receives `config.json`, `labels.json`, `parameters.txt`, `metrics.jsonl`,
        `tensorboard/`, `checkpoints/` and `eval/`.
    Returns: the result of the last evaluation on the first test.

    Raises:
      UserError: if the batch cannot be divided among the devices, or if the workdir cannot be
        written to, is in use, or holds a run with other settings or with more steps. Nothing has
        been overwritten then.
      Terminated: after a signal; all steps taken are saved.
      NotFiniteError: if the loss or a parameter is not finite.
      RunFailure: if the disk or the memory is full.
    """
    check_run(config, workdir)
    length = plan_run(config, data.train.labels)
    with (
        contextlib.ExitStack() as stack,
        Signals().listen(alone=processes.alone()) as signals,
        as_run_failure(workdir, memory=TRAINING_MEMORY),
    ):
        processes.by_lead(lambda: stack.enter_context(locked(workdir)))
        with contextlib.closing(start_run(config, data, length, workdir)) as run:
            if run.ended_in_evaluation():
                with run.window.paused():
                    run.evaluate()
            take_steps(run, signals)
            print(printable(f"trained {length.total} steps, all in '{workdir}'"))
            return run.result or run.evaluate()


def take_steps(run: "Run", signals: Signals) -> None:
    """Take the remaining steps of a run, and save and evaluate when due.

    Signals are held back except during an evaluation, so that each step taken is saved.

    Raises: Terminated after a signal, with the last step saved.
    """
    with (
        open_store(run.config, run.data.train.images) as store,
        signals.held(),
        run.load_batches(store) as loaded,
        run.progress,
    ):
        for row, batch in loaded:
            run.take_step(row, batch, loaded.wait_seconds)
            run.log(loaded.wait_seconds)
            with run.window.paused(), run.progress.paused():
                run.trace.after(run.step)
                if run.is_due(run.config.checkpoint.every_epochs):
                    run.save()
                try:
                    with signals.held(False):
                        signals.check()
                        if is_agreed():
                            raise Terminated
                        if run.is_due(run.config.eval.every_epochs):
                            run.result = run.evaluate()
                except Terminated as signal:
                    run.save()
                    run.manager.wait_until_finished()
                    print(f"ended by {signal.number.name} after step {run.step}, which is saved")
                    raise
        run.trace.stop()
        run.manager.wait_until_finished()


def start_run(
    config: ml_collections.ConfigDict, data: RunData, length: RunLength, workdir: Path
) -> "Run":
    """Restore the latest checkpoint of the workdir, or make a fresh state; open the run's files.

    Raises: UserError if the workdir holds a run with more steps or on other data.
    """
    images, labels, identities = data.train
    recipe = make_recipe(
        config,
        num_identities=len(identities),
        steps_per_epoch=length.steps_per_epoch,
        axis_name=AXIS if jax.device_count() > 1 else None,
    )
    metadata = checkpoints.metadata(config, [list(who) for who in identities], fingerprints(data))
    state = processes.by_lead(lambda: open_run(config, recipe, length, workdir, metadata))
    step = int(state.step)
    mean_ap = processes.by_lead(lambda: last_mean_ap(workdir, step))
    return Run(
        config=config,
        data=data,
        length=length,
        workdir=workdir,
        metadata=metadata,
        recipe=recipe,
        step_function=step_on_devices(recipe),
        state=devices.replicate(pack_state(state)),
        step=step,
        metrics_log=MetricsLog(workdir, step) if processes.is_lead() else NoMetricsLog(),
        manager=checkpoints.open_manager(
            workdir, keep=config.checkpoint.keep, keep_best=config.checkpoint.keep_best
        ),
        trace=StepTrace(workdir / "profile", step, enabled=config.profile and processes.is_lead()),
        window=Window(
            length, batch_size(config), NonFiniteReport(workdir, images.filenames, labels)
        ),
        progress=TrainingProgress(length, mean_ap=mean_ap),
    )


def step_on_devices(recipe: Recipe, on: Sequence[Any] | None = None) -> StepFunction:
    """Compile `train_step` for all devices.

    Args:
      recipe: of the step; its `axis_name` is None for a single device.
      on: the devices; None = the devices of all processes.
    Returns: a function of (state, batch split by `devices.split`) that returns (state, metrics).
      The state has no device axis and is packed for speed; its buffers are donated.
    """
    step = functools.partial(train_step, recipe=recipe)
    return devices.parallel(step, in_axes=(None, 0), out_axes=(None, None), donate=(0,), devices=on)


@dataclass
class Run:
    """A training run: its state on the devices and its open files in the workdir.

    Attributes:
      config: the settings.
      data: the training images and the tests.
      length: the run in steps and epochs.
      workdir: where the run writes.
      metadata: saved with each checkpoint.
      recipe: of the step.
      step_function: see `step_on_devices`.
      state: the state after `step` steps, packed, on every device of this process. The next step
        invalidates it, as its buffers are donated.
      step: number of steps taken.
      metrics_log: metrics.jsonl and TensorBoard's files.
      manager: of the checkpoints.
      trace: of a few steps, for TensorBoard.
      window: the steps since the last line of metrics.jsonl.
      progress: the bar on the terminal.
      result: of the last evaluation; None before the first.
      saved_step: the last step saved by this process; None before the first.
      is_compiled: whether this process has taken a step.
    """

    config: ml_collections.ConfigDict
    data: RunData
    length: RunLength
    workdir: Path
    metadata: dict[str, Any]
    recipe: Recipe
    step_function: StepFunction
    state: TrainState
    step: int
    metrics_log: MetricsLog | NoMetricsLog
    manager: Any
    trace: StepTrace
    window: Window
    progress: TrainingProgress
    result: dict[str, Any] | None = None
    saved_step: int | None = None
    is_compiled: bool = False

    @property
    def model(self) -> BATNet:
        """The network."""
        return self.recipe.model

    def load_batches(self, store: ImageStore) -> Prefetcher:
        """Load the remaining batches ahead of their use.

        Returns: an iterator over (image indices [b] of a global batch, what `take_step` takes).
        """
        positions = devices.own_rows(batch_size(self.config))
        local: Any = LocalBatches(store, self.data.train.labels, positions)
        rows = batches(self.config, self.data.train.labels, self.step, self.length)
        return prefetch(local, rows)

    def take_step(self, row: np.ndarray, batch: Any, wait_seconds: float) -> None:
        """Start a training step on the devices; wait for the result of the first step only.

        Args:
          row: [b] int, indices of the images in the global batch.
          batch: this process's share, from `LocalBatches`.
          wait_seconds: time the loop has waited for data since its start.
        """
        if self.is_compiled:
            self.state, metrics = self.step_function(self.state, batch)
        else:
            start = time.perf_counter()
            with compiling("train", self.config.model, self.config.batch, batch["image"].shape):
                self.state, metrics = self.step_function(self.state, batch)
                jax.block_until_ready(metrics)
        self.step += 1
        self.window.add(metrics, row)
        if not self.is_compiled:
            self.is_compiled = True
            self.window.leave_out(time.perf_counter() - start, wait_seconds)
            self.progress.after_step(self.step, jax.device_get(metrics))

    def log(self, wait_seconds: float) -> None:
        """Write a line of metrics.jsonl if one is due; show the progress.

        Args:
          wait_seconds: time the loop has waited for data since its start.
        """
        figures = None
        if self.step % self.config.log.every_steps == 0 or self.step == self.length.total:
            figures = self.window.close(self.step, wait_seconds)
            self.metrics_log.write(figures)
        self.progress.after_step(self.step, figures)

    def is_due(self, every_epochs: int) -> bool:
        """Return whether the current step ends an epoch divisible by `every_epochs`, or the run."""
        return self.length.is_due(self.step, every_epochs)

    def save(self) -> None:
        """Start saving the state, unless this step has been saved."""
        if self.saved_step == self.step:
            return
        self.metrics_log.publish()
        state = self.window.fetch_finite(self.step, self.state)
        checkpoints.save(self.manager, self.step, state, self.metadata)
        self.saved_step = self.step

    def tests(self) -> list[RetrievalTest]:
        """Return the tests of the current step: before the last step only the held-out ones."""
        is_last = self.step == self.length.total
        return [*self.data.val, *(self.data.tests if is_last or not self.data.val else [])]

    def evaluate(self) -> dict[str, Any]:
        """Evaluate the state; write the figures.

        Returns: the result on the first held-out test, or on the first test at the last step.
        """
        with as_run_failure(self.workdir, memory=EVALUATION_MEMORY):
            variables = unpack_state(jax.device_get(self.state.tested()))
            embed = make_embed(self.model, variables)
            results = run_tests(
                self.config,
                self.tests(),
                embed,
                step=self.step,
                workdir=self.workdir,
                make_untrained=self.embed_untrained,
            )
        if processes.is_lead():
            best_checkpoint.record(self.workdir, self.step, results)
        for result in results:
            self.metrics_log.write_evaluation(result)
        self.metrics_log.publish()
        result = results[len(self.data.val) if self.step == self.length.total else 0]
        self.progress.evaluated(result["mAP"])
        return result

    def embed_untrained(self) -> Embed:
        """Return the network with its initial weights, as an embedding."""
        state = fresh_state(self.config, self.recipe)
        return make_embed(self.model, {"params": state.params, "batch_stats": state.batch_stats})

    def ended_in_evaluation(self) -> bool:
        """Return whether an earlier process has saved this step but not finished evaluating it.

        The evaluation of the last step is made in any case, so it does not count.
        """
        if not 0 < self.step < self.length.total or not self.is_due(self.config.eval.every_epochs):
            return False
        return not processes.by_lead(lambda: is_evaluated(self.workdir, self.tests(), self.step))

    def close(self) -> None:
        """Finish saving; close the files."""
        with contextlib.closing(self.metrics_log):
            self.manager.close()


@dataclass
class LocalBatches:
    """The share of this process in the global batches, loaded on demand.

    Attributes:
      store: all training images.
      labels: [n] int, of all training images.
      positions: [b / processes] int, positions of this process's images in a global batch.
    """

    store: ImageStore
    labels: np.ndarray
    positions: np.ndarray

    def batch(self, row: np.ndarray) -> dict[str, np.ndarray]:
        """Load `image` and `label` [devices, b / all devices, ...] of the global batch `row`."""
        own = row[self.positions]
        batch = {"image": self.store.batch(own), "label": self.labels[own].astype(np.int32)}
        return {name: devices.split(array) for name, array in batch.items()}
