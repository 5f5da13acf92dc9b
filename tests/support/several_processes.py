"""TODO."""

import os
import socket
import subprocess
import sys
import time

from support.paths import ROOT
from support.run_main import SMALL

CHILD = ROOT / "tests" / "support" / "subprocess_main.py"


# Unoptimised code compiles in a third of the time.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


STEPS = 24


PLAN = (
    f"--config.steps={STEPS}", "--config.checkpoint.every_epochs=1", "--config.seed=3",
    "--config.eval.batch=16", "--config.model.dtype=float64", "--config.learning_rate=1e-4",
)  # fmt: skip


# What takes long has no part in this; the last of two values of a flag counts.
BARE = ("--config.model.attention=none", "--config.model.num_parts=0")


WHOLE = ("--config.model.attention=aia", "--config.model.num_parts=1")


TINY = tuple(flag.replace("(64, 32)", "(32, 16)") for flag in SMALL)


def start(arguments, processes=2, devices=2, **environment):
    """Starts the processes of a run; `arguments`, or with `each=` further ones, are child's."""
    each = environment.pop("each", [()] * processes)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {FLAGS}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "BATNET_HEARTBEAT": os.environ.get("BATNET_HEARTBEAT", "300"),
        **environment,
    }
    if processes > 1:
        common |= {
            "BATNET_DISTRIBUTED": "1",
            "BATNET_COORDINATOR": f"localhost:{port}",
            "BATNET_NUM_PROCESSES": str(processes),
        }
    return [
        subprocess.Popen(
            [sys.executable, CHILD, *map(str, arguments), *more],
            cwd=ROOT, env=common | {"BATNET_PROCESS_ID": str(number)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for number, more in zip(range(processes), each, strict=True)
    ]  # fmt: skip


def finish(processes, timeout=600):
    """(status, stdout, stderr) of each."""
    deadline = time.monotonic() + timeout
    try:
        outputs = [p.communicate(timeout=deadline - time.monotonic()) for p in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *texts) for p, texts in zip(processes, outputs, strict=True)]


def small(folder, workdir, *arguments):
    """The command line of a run."""
    base = ("--config=configs/demo.py", f"--config.data.dir={folder / 'data'}", *TINY)
    return [*base, f"--workdir={workdir}", *PLAN, *BARE, *arguments]
