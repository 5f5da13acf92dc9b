"""Contestants of a benchmark, each in a process of its own, that take turns; for `train_step.py`.

A request is a line of JSON on a process's stdin, and the answer is a line of JSON on its stdout;
see `train_step.work`. The first answer says that the process is ready.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path


class Worker:
    """A contestant's process, as seen from outside."""

    def __init__(self, task: dict):
        """Starts it; `read` returns when it is ready.

        Args:
          task: JSON: name, device, folder (for its errors), and script, which is run with --child
            and the task.
        """
        self.name = task["name"]
        self.figures: dict = {"seconds": []}
        self._errors = Path(task["folder"]) / f"{task['name']}.txt"
        environment = os.environ | {
            "PYTHONPATH": search_path(),
            "JAX_PLATFORMS": {"cpu": "cpu", "gpu": "cuda"}[task["device"]],
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        }
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, task["script"], "--child", json.dumps(task)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                start_new_session=True,  # so that what compiles for it can be ended with it
            )

    def read(self, patience: float | None = None):
        """Return the next answer; None if the process has ended, with its last words in `error`.

        A process that gives no answer within the time limit is ended.
        """
        if not select.select([self._process.stdout], [], [], patience)[0]:
            self._kill()
            self.figures["error"] = "not ready in time"
            return None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        lines = [line.strip() for line in self._errors.read_text().splitlines() if line.strip()]
        self.figures["error"] = (lines or [f"exit {self._process.returncode}"])[-1][:200]
        return None

    def ask(self, request):
        """Sends a request; returns its answer."""
        if "error" in self.figures:
            return None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """Ends it."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:  # it compiles still
            self._kill()
        self._process.stdout.close()

    def _kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def race(
    tasks: list[dict],
    repeats: int,
    profile: Path | None,
    at_once: bool = False,
    patience: float = 3600,
) -> list[dict]:
    """Lets contestants take turns; returns the figures of each."""
    workers: list[Worker] = []
    start = time.perf_counter()
    try:
        for number, task in enumerate(tasks):
            while len(workers) < (len(tasks) if at_once else number + 1):
                workers.append(Worker(tasks[len(workers)]))
            left = max(0.0, start + patience - time.perf_counter())
            workers[number].figures |= workers[number].read(left) or {}
            seconds = time.perf_counter() - start
            print(f"{task['name']}: ready after {seconds:.0f} s", file=sys.stderr, flush=True)
        for _ in range(repeats):
            for worker in workers:
                seconds = worker.ask("take")
                worker.figures["seconds"] += [seconds] if seconds else []
        for worker, task in zip(workers, tasks, strict=True):
            if profile:
                kind = f"{task['name']}-{task['dtype']}-{task['width']:g}"
                worker.ask({"profile": str(profile / kind)})
            worker.figures |= worker.ask("end") or {}
    finally:
        for worker in workers:
            worker.close()
    return [worker.figures for worker in workers]


def search_path() -> str:
    """Where children find the package, and what else this process finds."""
    return os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
