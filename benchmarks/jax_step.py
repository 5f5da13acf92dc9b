"""Our training step, as `batnet_jax.training.loop` takes it; `train_step.py` lets it race."""

import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from batnet_jax.config import default_config
from batnet_jax.export.published import published_tensors
from batnet_jax.runtime import devices
from batnet_jax.runtime.devices import AXIS
from batnet_jax.runtime.xla_flags import choose_cpu_libraries
from batnet_jax.step import augment, train_step
from batnet_jax.step.packing import pack_state
from batnet_jax.step.train_step import init_state
from batnet_jax.training.loop import step_on_devices


def make_config(task: dict):
    """The config of a contestant's network."""
    config = default_config()
    config.data.image_size = task["size"]
    config.model.update(
        {
            "width": task["width"],
            "reduction": task["reduction"],
            "dtype": task["dtype"],
            "num_parts": task["parts"],
            "part_sampling": "published",
        }
    )
    config.augment.erasing_start_epoch = 0
    config.batch.accumulate = task["accumulate"]
    return config


def make_recipe(task: dict, **options):
    """The recipe of a contestant's step."""
    return train_step.make_recipe(
        make_config(task), num_identities=task["identities"], steps_per_epoch=1000, **options
    )


def write_weights(task: dict) -> None:
    """Our initial values, under the published names, for PyTorch; in a process without a GPU."""
    state = init_state(make_recipe(task, axis_name=None), tuple(task["size"]))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    save_file(published_tensors(variables), task["weights"])


class Contestant:
    """Our way to take steps."""

    def __init__(self, name: str, task: dict):
        """Puts state and batch where `training/loop.py` does; compiles nothing yet."""
        choose_cpu_libraries()
        self.task = task
        # The call below finds what `lower` has compiled, but no earlier run's.
        jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(dir=task["folder"]))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        recipe = make_recipe(task, axis_name=AXIS if jax.device_count() > 1 else None)
        self.function = step_on_devices(recipe)
        state = pack_state(init_state(recipe, tuple(task["size"])))
        self.state = devices.replicate(state)
        self.batch = {"image": task["images"], "label": task["labels"].astype(np.int32)}

    def _split(self) -> dict:
        return jax.tree.map(devices.split, self.batch)

    def compile(self) -> dict:
        """Compile; return the seconds, and the memory that XLA reports."""
        start = time.perf_counter()
        compiled = self.function.lower(self.state, self._split()).compile()
        seconds = time.perf_counter() - start
        self.take(1)
        memory = compiled.memory_analysis()
        return {"compile": seconds, "temporaries": memory.temp_size_in_bytes}

    def take(self, steps: int) -> float:
        """Return the seconds of `steps` steps, until their losses are known."""
        start = time.perf_counter()
        losses = []
        for _ in range(steps):
            self.state, metrics = self.function(self.state, self._split())
            losses.append(metrics["loss"])
        if not np.isfinite(jax.device_get(losses)).all():
            raise FloatingPointError("the loss is not finite")
        return time.perf_counter() - start

    def apart(self) -> dict:
        """The seconds of augmentation alone, and of one product of square matrices."""

        def time_of(function, *arguments):
            jax.block_until_ready(function(*arguments))
            calls, best = (1 if self.task["device"] == "cpu" else 10), float("inf")
            for _ in range(3):
                start = time.perf_counter()
                results = [function(*arguments) for _ in range(calls)]
                jax.block_until_ready(results)
                best = min(best, (time.perf_counter() - start) / calls)
            return best

        keys = jax.random.split(jax.random.key(0), len(self.batch["image"]))
        half = {"enlarge_probability": 0.5, "erasing_probability": 0.5}
        side = self.task["side"]
        a = jax.random.uniform(jax.random.key(0), (side, side)).astype(self.task["dtype"])
        images = jnp.asarray(self.batch["image"])
        alone = jax.jit(partial(augment.augment, **half))
        return {
            "augment": time_of(alone, keys, images),
            "product": time_of(jax.jit(jnp.matmul), a, a),
        }

    def start_peak(self) -> None:
        """Do nothing, because JAX measures the peak over the whole life of the process."""

    def peak(self) -> int | None:
        """Bytes of device memory, at most; None on a CPU."""
        stats = jax.local_devices()[0].memory_stats() or {}
        return stats.get("peak_bytes_in_use")

    def profile(self, folder: Path) -> None:
        """Traces 3 steps."""
        with jax.profiler.trace(str(folder), create_perfetto_trace=True):
            self.take(3)
