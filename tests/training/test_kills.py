"""The preparation of a data set, killed at any moment: the next one completes it.

The table in data/test_images.py has the outcomes.
"""

import os
import subprocess
import sys

import pytest
from support.paths import ROOT as REPOSITORY
from support.tiny_datasets import contents, jpg, market_with, write_tree

from batnet_jax.data import load_dataset

KILLER = """
import os, signal, sys, time
from pathlib import Path
from batnet_jax.data import load_dataset

def prepare(number):
    pid = os.fork()  # one import for all
    if not pid:
        load_dataset("market1501", data_dir=f"{sys.argv[1]}/{number}", manual_dir=sys.argv[2])
        os._exit(0)
    return pid

start = time.perf_counter()
os.waitpid(prepare("whole"), 0)
seconds = time.perf_counter() - start
for number in range(int(sys.argv[3])):
    pid = prepare(number)
    if number % 2:  # certainly during the preparation
        place, deadline = Path(sys.argv[1], str(number)), time.perf_counter() + 60
        while not any(place.rglob("incomplete*")) and time.perf_counter() < deadline:
            time.sleep(0.001)
    else:
        time.sleep(seconds * 1.1 * (number + 0.5) / int(sys.argv[3]))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_at_any_moment(tmp_path, kills):
    """Kills at even intervals from start to end; every other kill is during the writing."""
    files = {f"{number:04}_c1s1_0.jpg": jpg(number) for number in range(10, 160)}
    write_tree(tmp_path / "m", market_with(files))
    command = [sys.executable, "-c", KILLER, tmp_path / "data", tmp_path / "m", str(kills)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=300)
    whole = load_dataset("market1501", data_dir=tmp_path / "data" / "whole")
    expected = contents(whole)
    assert [len(split[0]) for split in expected] == [1, 151, 1]
    half = 0
    for number in range(kills):
        data = tmp_path / "data" / str(number)
        half += any(data.rglob("incomplete*"))
        again = load_dataset("market1501", data_dir=data, manual_dir=tmp_path / "m")
        assert contents(again) == expected
        assert list(data.rglob("incomplete*")) == []
    assert half > 0  # some were during the writing
