"""The lock of a file's writers, and a writer that is killed."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from batnet_jax.errors import UserError
from batnet_jax.inference.feature_file import open_features, write_features
from batnet_jax.runtime.file_lock import only_writer

WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from batnet_jax.inference.feature_file import write_features
from batnet_jax.runtime.file_lock import only_writer

def batches():
    yield np.zeros((5000, 64))
    print("half", flush=True)
    time.sleep(600)

path = Path(sys.argv[1])
with only_writer(path):
    write_features(path, batches(), shape=(10000, 64), paths=["a"] * 10000)
"""


def test_a_killed_writer_leaves_the_old_file_and_no_lock(tmp_path):
    path, features = tmp_path / "F.npz", np.ones((3, 2), np.float32)
    write_features(path, [features], shape=(3, 2), paths=["a", "b", "c"])
    before = path.read_bytes()
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "half\n"
        message = f"is being written by process {writer.pid}: wait"
        with pytest.raises(UserError, match=message), only_writer(path):
            raise AssertionError("two writers")
        writer.send_signal(signal.SIGKILL)
    assert path.read_bytes() == before
    np.testing.assert_array_equal(open_features(path).features, features)
    partial = [name for name in os.listdir(tmp_path) if name.endswith(".partial")]
    assert len(partial) == 1
    os.utime(tmp_path / partial[0], (0, 0))  # a minute later
    with only_writer(path):
        write_features(path, [2 * features], shape=(3, 2), paths=["a", "b", "c"])
        assert sorted(os.listdir(tmp_path)) == ["F.npz", "F.npz.lock"]
    assert os.listdir(tmp_path) == ["F.npz"]
    np.testing.assert_array_equal(open_features(path).features, 2 * features)


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "F.npz.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="is a link"), only_writer(tmp_path / "F.npz"):
        raise AssertionError("locked")
    assert not (tmp_path / "victim").exists()
