"""Stand-ins for gcloud, Slurm, make and the machines behind them, for test_launch*.py.

A world is a folder. What is called in it is recorded, and fails as its plan says.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from support.paths import ROOT

TPU = ROOT / "launch" / "tpu_vm.sh"
SLURM = ROOT / "launch" / "slurm.sbatch"
SLURM_EMBED = ROOT / "launch" / "slurm_embed.sbatch"
LOCAL = ROOT / "launch" / "local.sh"

HERE = ["--zone=us-central2-b"]
MACHINE = [*HERE, "--type=v4-8"]
ARGUMENTS = ["--", "--config=configs/demo.py", "--workdir=gs://bucket/run"]
# Whatever a shell could stumble over must reach main as it was typed.
AWKWARD = ["--config.a=it's", 'a "b"  c', "$HOME `id` \\ ; & | * ~", "two\nlines", ""]

MISSING = [name for name in ("bash", "flock", "setsid") if not shutil.which(name)]
needs_linux = pytest.mark.skipif(bool(MISSING), reason=f"not on the PATH: {', '.join(MISSING)}")

# Each of these is recorded by its name; the rest of its behaviour follows. What sh reads as a
# command is a string to Python: a path of Python with a space cannot stand behind #!.
RECORD = f"""#!/bin/sh
'''exec' "{sys.executable}" -SE "$0" "$@"
' '''
import fcntl, json, os, shutil, signal, subprocess, sys, time
from pathlib import Path

world = Path(os.environ["WORLD"])
name, args = Path(sys.argv[0]).name, sys.argv[1:]
wanted = ("BATNET_", "JAX_", "XLA_")
env = {{k: v for k, v in os.environ.items() if k.startswith(wanted)}}
with open(world / "calls", "a") as file:
    print(json.dumps([name, args, env]), file=file)

def planned(kind, default):
    "The next outcome in the plan of a kind of call."
    path = world / "plan" / kind
    with open(world / "plan_lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rest = path.read_text().split() if path.exists() else []
        if rest:
            path.write_text(" ".join(rest[1:]))
    return rest[0] if rest else default

def fail(status, message):
    print(message, file=sys.stderr)
    sys.exit(status)
"""

GCLOUD = """
def state(kind, new=None):
    path = world / kind
    if new:
        path.write_text(new)
    return path.read_text() if path.exists() else "NONE"

def workers():
    number = [a for a in args if a.startswith("--worker=")][0][9:]
    homes = sorted(world.glob("home*"))
    return homes if number == "all" else [homes[int(number)]]

def await_lock(path):
    with open(path) as file:
        for _ in range(200):
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
    fail(1, f"{path} is held by what ran on the machine before")

def create(kind):
    outcome = planned("create", "ok")
    if outcome == "slow":
        time.sleep(60)
    if outcome == "late":  # the machine comes although gcloud was stopped
        signal.signal(signal.SIGTERM, lambda *_: (state("tpu-vm", "CREATING"), sys.exit(1)))
        time.sleep(60)
    messages = {
        "quota": "ERROR: Quota limit 'TPUV4' has been exceeded.",
        "capacity": "ERROR: There is no more capacity in the zone",
        "timeout": "ERROR: operation timed out",
        "denied": "ERROR: PERMISSION_DENIED",
        "exists": "ERROR: ALREADY_EXISTS",
    }
    if outcome in messages:
        fail(1, messages[outcome])
    for home in world.glob("home*"):
        lock = home / "batnet_run/lock"
        if lock.exists():  # what ran there must not write into the new home of that name
            await_lock(lock)
        shutil.rmtree(home)
    for number in range(int((world / "hosts").read_text())):
        (world / f"home{number}").mkdir()
    if kind == "queued-resources":
        state(kind, "ACTIVE")
    state("tpu-vm", "READY")

def describe(kind):
    outcome = planned(f"describe-{kind}", "ok")
    if outcome == "unknown":
        fail(1, "ERROR: network is unreachable")
    found = state(kind) if outcome == "ok" else outcome
    if found == "NONE":
        fail(1, "ERROR: NOT_FOUND: Resource was not found")
    print(found)

def delete(kind):
    if planned("delete", "ok") == "fail":
        fail(1, "ERROR: cannot delete")
    for path in world.glob("pid*"):
        os.kill(int(path.name[3:]), signal.SIGTERM)
        path.unlink(missing_ok=True)
    state(kind, "NONE")
    state("tpu-vm", "NONE")

def connect(kind):
    outcome = planned(kind, "ok")
    if outcome == "preempt":
        state("tpu-vm", "PREEMPTED")
    if outcome in ("preempt", "drop") or state("tpu-vm") != "READY":
        fail(255, "ssh: connection closed")
    statuses = [copy(home) if kind == "scp" else shell(home) for home in workers()]
    if outcome == "lost":  # what was asked for has been done, but nobody hears of it
        fail(255, "ssh: connection closed")
    sys.exit(max(statuses))

def copy(home):
    shutil.copy(args[4], home / args[5].partition(":")[2])
    return 0

def shell(home):
    path = f"{world}/hostbin:/usr/bin:/bin"
    command = [a for a in args if a.startswith("--command=")][0][10:]
    env = {"HOME": str(home), "PATH": path, "WORLD": str(world)}
    return subprocess.run(["bash", "-c", command], env=env, cwd=home).returncode

verb, kind = args[3], args[2]
if args[0] == "storage":
    Path("data/manual/from_bucket").touch()
elif verb in ("ssh", "scp"):
    connect(verb)
else:
    {"create": create, "describe": describe, "delete": delete}[verb](kind)
"""

# On a host: pip brings uv, uv makes .venv, whose Python is `main`.
PIP = """
uv = Path.home() / ".local/bin/uv"
uv.parent.mkdir(parents=True, exist_ok=True)
uv.write_text((world / "uv").read_text())
uv.chmod(0o755)
"""
UV = """
if args[0] == "venv":
    python = Path(".venv/bin/python")
    python.parent.mkdir(parents=True)
    python.write_text((world / "main").read_text())
    python.chmod(0o755)
elif planned("install", "ok") == "fail":
    fail(1, "no such version")
"""
MAIN = """
print("the log of main")
outcome = planned("main", "0")
if outcome.startswith("meet"):  # all hosts' end together
    outcome = outcome[4:]
    (world / f"met{os.getpid()}").touch()
    while len(list(world.glob("met*"))) < int((world / "hosts").read_text()):
        time.sleep(0.02)
if outcome == "sleep":
    pid = world / f"pid{os.getpid()}"
    signal.signal(signal.SIGTERM, lambda *_: (pid.unlink(missing_ok=True), sys.exit(143)))
    sys.stdout.flush()
    pid.touch()
    (world / "sleeping").touch()
    time.sleep(60)
sys.exit(int(outcome))
"""
SRUN = """
sys.exit(int(planned("main", "0")))
"""
MAKE = """
sys.exit(int(planned("make", "0")))
"""


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("nothing happened in 30 seconds")


def ours(env):
    """What the scripts added."""
    return {k: v for k, v in env.items() if k not in ("BATNET_BACKOFF", "BATNET_POLL")}


class World:
    """Scripts run with `bin/` first on PATH; machines have `hosts` hosts."""

    def __init__(self, folder, *, hosts=1):
        self.folder = folder
        self.processes = []
        (folder / "plan").mkdir()
        (folder / "hosts").write_text(str(hosts))
        self.program("bin/gcloud", GCLOUD)
        self.program("hostbin/gcloud", GCLOUD)
        self.program("hostbin/python3", PIP)
        self.program("uv", UV)
        self.program("main", MAIN)
        self.program("bin/srun", SRUN)
        self.program("bin/scontrol", "")
        self.program("bin/make", MAKE)

    def program(self, path, code):
        """Makes a stand-in."""
        path = self.folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(RECORD + code)
        path.chmod(0o755)

    def plan(self, kind, *outcomes):
        """What the next calls of a kind do; those after them succeed."""
        (self.folder / "plan" / kind).write_text(" ".join(map(str, outcomes)))

    def start(self, *command, env=None):
        """Returns: the process."""
        world = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "WORLD": str(self.folder),
            "BATNET_BACKOFF": "0",
            "BATNET_POLL": "0",
        }
        # A shell cannot trap what was ignored when it started, as it is under `make test &`.
        trappable = [shutil.which("env"), "--default-signal=INT"]
        process = subprocess.Popen(
            [*trappable, *map(str, command)],
            cwd=ROOT,
            env=world | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def pids(self):
        """Of each main that is at work."""
        return [int(path.name[3:]) for path in self.folder.glob("pid*")]

    def close(self):
        """What a failed test has left."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def run(self, *command, **options):
        """Returns: exit status, stdout, stderr."""
        process = self.start(*command, **options)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self, name="gcloud"):
        """The arguments of each call of a program."""
        return [args for called, args, _ in self._recorded() if called == name]

    def environments(self, name):
        return [env for called, _, env in self._recorded() if called == name]

    def _recorded(self):
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def verbs(self):
        """What gcloud was asked to do, without the looks: create, scp, ssh, delete."""
        return [args[3] for args in self.calls() if args[3] != "describe" and args[0] == "compute"]

    def has_machine(self):
        states = [self.folder / kind for kind in ("tpu-vm", "queued-resources")]
        return any(path.exists() and path.read_text() != "NONE" for path in states)
