"""The checksums in a checkpoint's metadata."""

import zlib

import numpy as np
import pytest

from batnet_jax.workdir.checkpoint_checks import has_own_checksum
from batnet_jax.workdir.checksums import METADATA, add_checksums, damaged_arrays

STATE = {"params": {"w": np.float32([[1, 2], [3, 4]])}, "step": np.int32(7)}


@pytest.fixture
def run():
    return add_checksums({"seed": 1, "data": {}}, STATE)


def test_by_hand(run):
    assert run == {
        "seed": 1,
        "data": {},
        "checksums": {
            "['params']['w']": zlib.crc32(b"\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40\0\0\x80\x40"),
            "['step']": zlib.crc32(b"\7\0\0\0"),
            METADATA: zlib.crc32(b'{"data": {}, "seed": 1}'),
        },
    }
    assert has_own_checksum(run)
    assert damaged_arrays(run, STATE) == []


def test_the_order_of_keys_and_the_layout_in_memory_do_not_matter(run):
    assert has_own_checksum(dict(reversed(run.items())))
    w = np.asfortranarray(STATE["params"]["w"])
    assert damaged_arrays(run, {"step": STATE["step"], "params": {"w": w}}) == []


def test_changes_are_found(run):
    assert not has_own_checksum(run | {"seed": 2})
    assert not has_own_checksum(run | {"more": None})
    assert damaged_arrays(run, STATE | {"step": np.int32(8)}) == ["['step']"]
    assert damaged_arrays(run, {"step": STATE["step"]}) == ["['params']['w']"]
    zero = STATE | {"params": {"w": np.zeros((2, 2), np.float32)}}
    negative = STATE | {"params": {"w": -np.zeros((2, 2), np.float32)}}
    assert damaged_arrays(add_checksums({}, zero), negative) == ["['params']['w']"]


def test_older_checkpoints_have_no_checksums():
    assert damaged_arrays({"seed": 1}, STATE) == []
