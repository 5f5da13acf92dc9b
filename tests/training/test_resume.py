"""A run that was stopped in any way and resumed ends with the bits of an uninterrupted run.

Each run is a process of the main program, on a tiny data set and with the toy backbone.
"""

import fcntl
import json
import random
import shutil
import signal
import time
from functools import partial

import numpy as np
import pytest
from support import run_main
from support.run_main import (
    PLAN,
    SMALL,
    STEPS,
    TOY,
    assert_same_run,
    call_main,
    lines,
    steps_saved,
    wait_for_steps,
)

run_small = partial(run_main.run_small, entry=TOY)
start_small = partial(run_main.start_small, entry=TOY)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the workdir of the uninterrupted run; its folder holds the data for all runs."""
    folder = tmp_path_factory.mktemp("resume")
    process = run_small(folder, folder / "whole", *PLAN)
    assert process.returncode == 0, process.stderr
    assert len(list((folder / "whole" / "eval").glob("*.json"))) > 1
    return folder / "whole"


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [
        (signal.SIGTERM, 143, "terminated"),
        pytest.param(signal.SIGHUP, 129, "hung up", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, "interrupted", marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_the_steps(whole, tmp_path, number, status, word):
    process = start_small(whole.parent, tmp_path / "run", *PLAN)
    wait_for_steps(process, tmp_path / "run", 4)
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    last = steps_saved(tmp_path / "run")[-1]
    assert 4 <= last < STEPS
    assert f"ended by {number.name} after step {last}, which is saved" in output
    assert errors.splitlines()[-1].startswith(f"{word}; the same command resumes")
    assert "Traceback" not in errors
    assert len(lines(tmp_path / "run")) == last
    # A killed run leaves lines of steps after its checkpoint, and the last line may be cut off.
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": {last + 1}, "loss": 0.0}}\n{{"step": {last + 2}, "lo')
    again = run_small(whole.parent, tmp_path / "run", *PLAN)
    assert again.returncode == 0, again.stderr
    assert f"resuming '{tmp_path / 'run'}' after step {last}" in again.stdout
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.slow  # resumed runs are compared with the whole one, too
def test_a_second_run_is_the_same(whole, tmp_path):
    """A run does not depend on its folder either."""
    process = run_small(whole.parent, tmp_path / "run", *PLAN)
    assert process.returncode == 0, process.stderr
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.slow
def test_resumed_on_two_devices(whole, tmp_path):
    """Floats are added in another order, and a dozen steps magnify the difference."""
    shutil.copytree(whole, tmp_path / "run")
    for step in steps_saved(tmp_path / "run")[1:]:
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    (first,) = steps_saved(tmp_path / "run")
    process = run_small(whole.parent, tmp_path / "run", *PLAN, devices=2)
    assert process.returncode == 0, process.stderr
    assert f"after step {first}" in process.stdout
    mine, theirs = lines(tmp_path / "run"), lines(whole)
    assert len(mine) == len(theirs) == STEPS
    assert mine[:first] == theirs[:first]
    assert mine[first:] != theirs[first:]
    np.testing.assert_allclose(mine[first]["loss"], theirs[first]["loss"], rtol=1e-4)
    losses = [[line["loss"] for line in some[first : first + 8]] for some in (mine, theirs)]
    np.testing.assert_allclose(*losses, rtol=0.1)
    starts = (tmp_path / "run" / "environment.jsonl").read_text().splitlines()
    assert [sum(json.loads(line)["devices"].values()) for line in starts] == [1, 2]


def kill_until_done(whole, workdir, seed, kills):
    """Kill processes at random moments; let the last one complete the run."""
    rng = random.Random(seed)
    for _ in range(kills):
        done = len(lines(workdir)) if (workdir / "metrics.jsonl").exists() else 0
        process = start_small(whole.parent, workdir, *PLAN)
        if rng.random() < 0.7:
            wait_for_steps(process, workdir, min(STEPS, done + rng.randrange(8)))
        time.sleep(rng.random() * 0.3)
        process.kill()
        process.communicate(timeout=60)
    process = run_small(whole.parent, workdir, *PLAN)
    assert process.returncode == 0, process.stderr
    assert_same_run(workdir, whole)


def test_killed_twice(whole, tmp_path):
    kill_until_done(whole, tmp_path / "run", seed=1, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_many_times(whole, tmp_path, seed):
    kill_until_done(whole, tmp_path / "run", seed=100 + seed, kills=5)


@pytest.mark.slow  # workdir/test_damaged_checkpoints
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    *_, before, last = steps_saved(tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints" / str(last) / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = run_small(whole.parent, tmp_path / "run", *PLAN)
    assert again.returncode == 0, again.stderr
    assert f"warning: checkpoint {last} in '{tmp_path / 'run'}' is damaged" in again.stderr
    assert (tmp_path / "run" / "damaged" / str(last)).is_dir()
    assert f"after step {before}" in again.stdout
    assert_same_run(tmp_path / "run", whole)


def test_fewer_steps_and_a_second_process_are_refused(whole):
    def call(workdir, *arguments):
        data = f"--config.data.dir={whole.parent / 'data'}"
        words = ("--config=configs/demo.py", data, f"--workdir={workdir}", *SMALL, *PLAN)
        status, message = call_main(*words, *arguments)
        assert (status, message.count("\n")) == (2, 1), message
        return message

    fewer = f"trained for {STEPS} steps, more than the 5 asked for"
    assert fewer in call(whole, "--config.steps=5")
    assert not (whole / "eval" / "step_5.json").exists()
    with (whole / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert f"'{whole}' is in use by process " in call(whole)
    assert "name a folder, or gs://BUCKET/FOLDER" in call("s3://bucket/run")


def test_profile_writes_a_trace(whole, tmp_path):
    process = run_small(
        whole.parent, tmp_path / "run", *PLAN, "--config.steps=8", "--config.profile=1"
    )
    assert process.returncode == 0, process.stderr
    assert "open it in TensorBoard" in process.stdout
    (trace,) = (tmp_path / "run" / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 10_000
    (perfetto,) = (tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz")
    assert perfetto.stat().st_size > 1_000
