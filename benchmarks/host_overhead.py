"""What the training loop adds to its steps: waiting for data, the host's work, checkpoints.

    python benchmarks/host_overhead.py --config=configs/demo.py [--windows=5] [--window_steps=20]
        [--config.FIELD=VALUE]

The real loop, `train.run_steps` with its loader, journal and progress bar, takes a window of steps;
then the same compiled step is taken as often on one batch that lies on the device, with nothing
between; and so on in turns, as the speed of the machine drifts. What the loop takes longer is the
overhead, waiting for data included. Then:

* the loop with a step that does nothing: the host's own work, which a device hides while it is
  busy, as long as it is less than a step.
* a checkpoint: how long the loop stands still for it, and when it is on the disk.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from batnet_jax import main
from batnet_jax.data.run_data import open_run_data, open_store
from batnet_jax.runtime import devices
from batnet_jax.runtime.devices import AXIS
from batnet_jax.runtime.xla_flags import choose_cpu_libraries
from batnet_jax.step.packing import pack_state, unpack_state
from batnet_jax.step.train_step import init_state, make_recipe
from batnet_jax.training import loop
from batnet_jax.training.non_finite import NonFiniteReport
from batnet_jax.training.run_length import batch_size, batches, plan_schedule
from batnet_jax.training.window import Window
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.metrics_log import MetricsLog

WINDOWS = flags.DEFINE_integer("windows", 5, "Windows of each kind.", lower_bound=1)
WINDOW_STEPS = flags.DEFINE_integer("window_steps", 20, "Steps of a window.", lower_bound=1)


class Loop:
    """The loop of a config, ready to be run with one step or another."""

    def __init__(self, config, store, labels: np.ndarray, num_identities: int):
        """Compiles the step and takes two, on a batch that stays on the device."""
        self.config, self.store, self.labels = config, store, labels
        self.schedule = plan_schedule(config, labels)
        self.recipe = make_recipe(
            config,
            num_identities=num_identities,
            steps_per_epoch=self.schedule.steps_per_epoch,
            axis_name=AXIS if jax.device_count() > 1 else None,
        )
        self.step = loop.pmap_step(self.recipe)
        rows = next(batches(config, labels, 0, self.schedule))
        batch = {"image": store.batch(rows), "label": labels[rows].astype(np.int32)}
        sharding = NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))
        self.batch = jax.device_put(jax.tree.map(devices.split, batch), sharding)
        self.state = devices.replicate(pack_state(self.fresh()))
        self.alone(2)

    def fresh(self):
        """A state to start from."""
        return init_state(self.recipe, tuple(self.config.data.image_size))

    def alone(self, steps: int) -> float:
        """Seconds of so many steps with nothing between them."""
        start = time.perf_counter()
        for _ in range(steps):
            self.state, metrics = self.step(self.state, self.batch)
        jax.block_until_ready(metrics)
        return time.perf_counter() - start

    def windows(self, step: Callable, workdir: Path) -> Iterator[tuple[float, float]]:
        """Runs the loop with this step; yields seconds and data wait, a share, of each window."""
        workdir.mkdir()
        journal, seconds = MetricsLog(workdir, 0), []
        write = journal.write
        journal.write = lambda figures: (write(figures), seconds.append(figures["data_wait"]))
        original, loop.pmap_step = loop.pmap_step, lambda _: step
        try:
            taken = loop.run_steps(
                self.config,
                self.recipe,
                self.schedule,
                self.fresh(),
                self.store,
                self.labels,
                journal,
                Window(
                    self.schedule,
                    batch_size(self.config),
                    NonFiniteReport(workdir, [], self.labels),
                ),
            )
            start = time.perf_counter()
            for number, _ in taken:
                if number % self.config.log.every_steps == 0:
                    yield time.perf_counter() - start, seconds[-1]
                    start = time.perf_counter()
        finally:
            loop.pmap_step = original
            journal.close()


def save_seconds(state, workdir: Path) -> tuple[float, float]:
    """Seconds that saving a checkpoint holds the loop up, and until it is on the disk."""
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
    steps, schedule = WINDOW_STEPS.value, loop.schedule
    rows = []
    for seconds, wait in loop.windows(loop.step, folder / "loop"):
        rows.append((seconds, loop.alone(steps), wait))
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
    host = [seconds for seconds, _ in loop.windows(idle, folder / "host")][1:]
    own = median(host) / steps
    print(f"the loop with an idle step: {1e3 * own:,.2f} ms, {own / alone:.1%} of a step")

    held, done = save_seconds(loop.state, folder / "saved")
    between = loop.config.checkpoint.every_epochs * schedule.steps_per_epoch * alone
    share = f"{held / between:.2%}" if between else "once a run"
    print(
        f"a checkpoint holds the loop up for {1e3 * held:,.0f} ms, {share}, and is on the disk "
        f"after {1e3 * done:,.0f}"
    )


def run(argv: list[str]) -> None:
    """Measures a config's loop."""
    choose_cpu_libraries()
    main.parse(argv)
    config = flags.FLAGS["config"].value
    config.steps = WINDOW_STEPS.value * (WINDOWS.value + 1)
    config.log.every_steps = WINDOW_STEPS.value
    main.use_compilation_cache(Path(config.data.dir) / "xla_cache")
    images, labels, identities = open_run_data(config).train
    with tempfile.TemporaryDirectory() as folder, open_store(config, images) as store:
        for start in range(0, len(labels), 256):  # decoded, as after the first epoch
            store.batch(np.arange(start, min(start + 256, len(labels))))
        measure(Loop(config, store, labels, len(identities)), Path(folder))


if __name__ == "__main__":
    run(sys.argv)
