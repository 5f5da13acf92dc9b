"""Every mode, ended by a signal at any moment: its status, one line, and no half-written file."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import needs
from support.paths import ROOT
from support.run_main import PLAN, SMALL, TOY, run_main, run_small

pytestmark = pytest.mark.slow

MOMENTS = 5
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
MODES = {
    "train": ("--config=configs/demo.py", *SMALL, *PLAN, "--workdir={place}/new"),
    "eval": ("--mode=eval", "--workdir={place}/run"),
    "report": ("--mode=report", "--workdir={place}/run"),
    "tables": (
        "--mode=tables",
        "--config=configs/demo.py",
        *SMALL,
        *PLAN,
        "--workdir={place}/t",
        "--table=1",
        "--config.steps=4",
    ),
    "embed": ("embed", "{place}/run", "{place}/photos", "{place}/made.npz"),
    "search": ("search", "{place}/run", "{place}/photos/1.png", "{place}/g.npz", "--top=3"),
    "serve": ("serve", "{place}/run", "{place}/g.npz", "--port=0"),
    "export": ("export", "{place}/run", "{place}/made.stablehlo"),
    "compare": ("compare", "{place}/run", "{place}/other"),
    "metrics": ("metrics", "{place}/q.npz", "{place}/q.npz", "--output={place}/made.json"),
    "fields": ("fields",),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a trained run, a copy of it, images, and features of two kinds."""
    place = tmp_path_factory.mktemp("signals")
    done = run_small(place, place / "run", *PLAN, entry=TOY)
    assert done.returncode == 0, done.stderr
    shutil.copytree(place / "run", place / "other")
    rng = np.random.default_rng(0)
    (place / "photos").mkdir()
    for number in range(200):
        image = Image.fromarray(rng.integers(0, 256, (64, 32, 3), np.uint8))
        image.save(place / "photos" / f"{number}.png")
    done = run_main("embed", place / "run", place / "photos", place / "g.npz", entry=TOY)
    assert done.returncode == 0, done.stderr
    pids, cameras = np.arange(3000) % 50, np.arange(3000) % 3
    features = rng.normal(size=(3000, 64)).astype(np.float32)
    np.savez(place / "q.npz", features=features, pids=pids, cameras=cameras)
    return place


def start(place, mode):
    words = [word.format(place=place) for word in MODES[mode]]
    if "--config=configs/demo.py" in words:
        words.append(f"--config.data.dir={place}/data")
    return subprocess.Popen(
        [sys.executable, *TOY, *words], cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_handler(process):
    """Wait until Python has started and hears SIGTERM; before, Python decides how it ends."""
    bit, end = 1 << signal.SIGTERM - 1, time.monotonic() + 60
    while time.monotonic() < end:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if int(re.search(r"SigCgt:\s+(\w+)", status)[1], 16) & bit:
            return
        time.sleep(0.002)


def remove_results(place):
    for path in (*place.glob("made*"), place / "new", place / "t"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def results(place):
    """The files that the mode has made, by name."""
    return {path.name: path.read_bytes() for path in place.glob("made*")}


@pytest.mark.parametrize("mode", MODES)
def test_a_signal_at_any_moment(place, mode):
    if mode == "serve":
        needs.installed("starlette", "uvicorn")
    remove_results(place)
    begin = time.monotonic()
    process = start(place, mode)
    if mode == "serve":
        assert process.stdout is not None
        assert "ready at" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == (143 if mode == "serve" else 0), errors
    seconds, whole = time.monotonic() - begin, results(place)
    chance = random.Random(mode)
    for number in range(MOMENTS):
        remove_results(place)
        kind = chance.choice(list(WORDS))
        moment = chance.uniform(0, seconds if number % 2 else min(seconds, 3))
        process = start(place, mode)
        wait_for_handler(process)
        time.sleep(moment)
        process.send_signal(kind)
        _, errors = process.communicate(timeout=600)
        case = f"{kind.name} after {moment:.2f} s: {errors}"
        assert "Traceback" not in errors, case
        assert "ignored" not in errors, case
        ended = [line for line in errors.splitlines() if line.startswith(tuple(WORDS.values()))]
        if process.returncode == 0:  # the work was done
            assert (ended, results(place)) == ([], whole), case
        else:
            assert process.returncode == 128 + kind, case
            assert [line.partition(";")[0] for line in ended] == [WORDS[kind]], case
            assert results(place) in ({}, whole), case
        assert list(place.glob("**/*.partial")) == [], case
