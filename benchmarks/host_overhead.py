"""What the training loop adds to its steps: waiting for data, the host's work, checkpoints.

    python benchmarks/host_overhead.py --config=configs/demo.py [--windows=5] [--window_steps=20]
        [--config.FIELD=VALUE]

The real loop, `loop.take_steps` with its loader, log and progress bar, takes a window of steps.
Then the same compiled step runs alone, the same number of times, on one batch that stays on the
device. The two take turns, because the speed of the machine drifts. The overhead is the difference
of their times, and includes the time spent waiting for data. Two more measurements follow:

* the loop with a step that does nothing. Its time is the host's own work. A busy device hides this
  work if it takes less time than a step.
* a checkpoint: how long the loop waits for it, and after what time it is on the disk.
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from batnet_jax.commands import command_line
from batnet_jax.data.run_data import RunData, open_run_data, open_store
from batnet_jax.runtime import devices
from batnet_jax.runtime.compilation_cache import use_compilation_cache
from batnet_jax.runtime.devices import AXIS
from batnet_jax.runtime.signals import Signals
from batnet_jax.runtime.xla_flags import choose_cpu_libraries
from batnet_jax.step.packing import pack_state, unpack_state
from batnet_jax.step.train_step import init_state, make_recipe
from batnet_jax.training import loop
from batnet_jax.training.non_finite import NonFiniteReport
from batnet_jax.training.profiling import StepTrace
from batnet_jax.training.progress import TrainingProgress
from batnet_jax.training.run_length import batch_size, batches, plan_run
from batnet_jax.training.window import Window
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.metrics_log import MetricsLog, read_metrics

WINDOWS = flags.DEFINE_integer("windows", 5, "Windows of each kind.", lower_bound=1)
WINDOW_STEPS = flags.DEFINE_integer("window_steps", 20, "Steps of a window.", lower_bound=1)


class Loop:
    """The loop of a config, ready to be run with one step or another."""

    def __init__(self, config, store, data: RunData):
        """Compiles the step and takes two, on a batch that stays on the device."""
        self.config, self.data, self.labels = config, data, data.train.labels
        self.length = plan_run(config, self.labels)
        self.recipe = make_recipe(
            config,
            num_identities=len(data.train.identities),
            steps_per_epoch=self.length.steps_per_epoch,
            axis_name=AXIS if jax.device_count() > 1 else None,
        )
        self.step = loop.step_on_devices(self.recipe)
        rows = next(batches(config, self.labels, 0, self.length))
        batch = {"image": store.batch(rows), "label": self.labels[rows].astype(np.int32)}
        sharding = NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))
        self.batch = jax.device_put(jax.tree.map(devices.split, batch), sharding)
        self.state = devices.replicate(pack_state(self.fresh()))
        self.alone(2)

    def fresh(self):
        """A state to start from."""
        return init_state(self.recipe, tuple(self.config.data.image_size))

    def alone(self, steps: int) -> float:
        """Return the seconds of `steps` steps with nothing between them."""
        start = time.perf_counter()
        for _ in range(steps):
            self.state, metrics = self.step(self.state, self.batch)
        jax.block_until_ready(metrics)
        return time.perf_counter() - start

    def windows(
        self, step: Callable, workdir: Path, between: Callable[[], float] = float
    ) -> list[tuple[float, float, float]]:
        """Run the loop with this step.

        Args:
          step: as `step_on_devices` returns it.
          workdir: a new folder.
          between: called after each window.
        Returns: for each window its seconds, what `between` returned, and the data wait, a share.
        """
        workdir.mkdir()
        run = TimedRun(
            config=self.config,
            data=self.data,
            length=self.length,
            workdir=workdir,
            metadata={},
            recipe=self.recipe,
            step_function=step,
            state=devices.replicate(pack_state(self.fresh())),
            step=0,
            metrics_log=MetricsLog(workdir, 0),
            manager=checkpoints.NoManager(),
            trace=StepTrace(workdir, 0, enabled=False),
            window=Window(
                self.length, batch_size(self.config), NonFiniteReport(workdir, [], self.labels)
            ),
            progress=TrainingProgress(self.length),
            between=between,
        )
        with contextlib.closing(run):
            loop.take_steps(run, Signals())
        waits = [line["data_wait"] for line in read_metrics(workdir)]
        return [(*row, wait) for row, wait in zip(run.rows, waits, strict=True)]


@dataclass
class TimedRun(loop.Run):
    """A run that neither saves nor evaluates.

    Attributes:
      between: called after each window.
      rows: of each window the seconds, and what `between` returned.
      start: of the current window, on the clock.
    """

    between: Callable[[], float] = float
    rows: list[tuple[float, float]] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    def log(self, wait_seconds: float) -> None:
        """Log as usual; at the end of a window note its time."""
        super().log(wait_seconds)
        if self.step % self.config.log.every_steps == 0:
            seconds = time.perf_counter() - self.start
            with self.window.paused():
                self.rows.append((seconds, self.between()))
            self.start = time.perf_counter()

    def save(self) -> None:
        """Save nothing."""

    def evaluate(self) -> dict:
        """Evaluate nothing."""
        return {}


def save_seconds(state, workdir: Path) -> tuple[float, float]:
    """Return the seconds that a checkpoint holds the loop up, and the seconds until it is saved."""
    manager = checkpoints.open_manager(workdir)
    checkpoints.save(manager, 1, unpack_state(jax.device_get(state)), {})  # what is done once
    manager.wait_until_finished()
    start = time.perf_counter()
    checkpoints.save(manager, 2, unpack_state(jax.device_get(state)), {})
    held = time.perf_counter() - start
    manager.wait_until_finished()
    done = time.perf_counter() - start
    manager.close()
    return held, done


def measure(loop: Loop, folder: Path) -> None:
    """Prints the figures."""
    steps = WINDOW_STEPS.value
    rows = loop.windows(loop.step, folder / "loop", lambda: loop.alone(steps))
    rows = rows[1:]  # the first fills the caches
    within, alone = (median(column) / steps for column in list(zip(*rows, strict=True))[:2])
    overheads = [(a - b) / a for a, b, _ in rows]
    print(f"\nin the loop: {1e3 * within:,.1f} ms a step; alone: {1e3 * alone:,.1f} ms")
    print(
        f"overhead: {median(overheads):.1%} of a step, {min(overheads):.1%} to "
        f"{max(overheads):.1%} in {len(rows)} windows of {steps} steps"
    )
    print(f"of it waiting for data: {median(wait for *_, wait in rows):.2%}")

    def idle(state, batch):
        jax.device_put(batch)
        return state, {name: zero for name in ("loss", "loss_ce", "loss_triplet", "lr")}

    zero = np.float32(0)
    host = [seconds for seconds, *_ in loop.windows(idle, folder / "host")][1:]
    own = median(host) / steps
    print(f"the loop with an idle step: {1e3 * own:,.2f} ms, {own / alone:.1%} of a step")

    held, done = save_seconds(loop.state, folder / "saved")
    between = loop.config.checkpoint.every_epochs * loop.length.steps_per_epoch * alone
    share = f"{held / between:.2%}" if between else "once a run"
    print(
        f"a checkpoint holds the loop up for {1e3 * held:,.0f} ms, {share}, and is on the disk "
        f"after {1e3 * done:,.0f}"
    )


def run(argv: list[str]) -> None:
    """Measures a config's loop."""
    choose_cpu_libraries()
    command_line.parse(argv)
    config = flags.FLAGS["config"].value
    config.steps = WINDOW_STEPS.value * (WINDOWS.value + 1)
    config.log.every_steps = WINDOW_STEPS.value
    use_compilation_cache()
    data = open_run_data(config)
    images = data.train.images
    with tempfile.TemporaryDirectory() as folder, open_store(config, images) as store:
        for start in range(0, len(images), 256):  # decoded, as after the first epoch
            store.batch(np.arange(start, min(start + 256, len(images))))
        measure(Loop(config, store, data), Path(folder))


if __name__ == "__main__":
    run(sys.argv)
