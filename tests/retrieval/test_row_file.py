"""Rows read from a file are those of the array, and a change of the file is noticed."""

import os
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batnet_jax.errors import UserError
from batnet_jax.retrieval import search, top_k
from batnet_jax.retrieval.mapped_rows import read_rows
from batnet_jax.retrieval.row_file import BlockSums, RowFile

START = 24
"""Bytes in front of the rows."""


def write(path, array, size=100):
    """Write rows behind other bytes; return the file's checksums, in blocks of `size` bytes."""
    content = bytes(range(START)) + array.tobytes()
    path.write_bytes(content)
    sums = [zlib.crc32(content[i : i + size]) for i in range(0, len(content), size)]
    return BlockSums(0, len(content), size, np.array(sums, np.uint32))


def open_rows(path, array, sums=None):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return RowFile(
            descriptor, name=str(path), data=START, shape=array.shape, dtype=array.dtype, sums=sums
        )
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8"])
@given(data=st.data())
def test_parts_are_those_of_the_array(tmp_path_factory, dtype, data):
    shape = data.draw(st.tuples(st.integers(1, 30), st.integers(1, 7)))
    array = np.random.default_rng(0).normal(size=shape).astype(dtype)
    path = tmp_path_factory.mktemp("rows") / "f"
    sums = write(path, array, data.draw(st.integers(1, 400)))
    rows = open_rows(path, array, data.draw(st.sampled_from([None, sums])))
    assert (len(rows), rows.shape, rows.dtype, rows.ndim) == (len(array), shape, array.dtype, 2)
    ends = st.none() | st.integers(-40, 40)
    part = slice(data.draw(ends), data.draw(ends), data.draw(st.sampled_from([None, 1, 2, -1])))
    indices = np.array(data.draw(st.lists(st.integers(-shape[0], shape[0] - 1), max_size=9)), int)
    for wanted in (part, indices, shape[0] - 1):
        found = rows[wanted]
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array[wanted])
    np.testing.assert_array_equal(rows, array)
    np.testing.assert_array_equal(read_rows(rows, part), array[part].astype(np.float32))


def test_a_part_that_has_changed_is_noticed_when_it_is_read(tmp_path):
    array = np.arange(200, dtype=np.float32).reshape(50, 4)
    path = tmp_path / "f"
    sums = write(path, array)
    content = bytearray(path.read_bytes())
    content[420] ^= 1  # of block 4, whose rows are 24 to 29
    path.write_bytes(content)
    rows = open_rows(path, array, sums)
    np.testing.assert_array_equal(rows[:23], array[:23])
    np.testing.assert_array_equal(rows[30:], array[30:])
    for part in (slice(None), slice(23, 25), slice(29, 30), np.array([1, 28])):
        with pytest.raises(UserError, match=r"f' is damaged: bytes 400 to 500 do not match their"):
            rows[part]


@pytest.mark.parametrize("checked", [False, True])
def test_a_file_that_is_cut_off_while_it_is_in_use(tmp_path, checked):
    """A mapped file would end the process by a signal."""
    array = np.zeros((3 * search.CHUNK, 2), np.float32) + 1
    path = tmp_path / "f"
    sums = write(path, array, 2**16)
    rows = open_rows(path, array, sums if checked else None)
    query = np.ones((1, 2), np.float32)
    assert top_k(query, rows, 3)[0].tolist() == [[0, 1, 2]]
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(UserError, match="has been cut off while it was in use"):
        top_k(query, rows, 3)
    os.truncate(path, 0)
    with pytest.raises(UserError, match="has been cut off while it was in use"):
        rows[:1]


def test_a_file_that_is_replaced_or_deleted_stays(tmp_path):
    array = np.ones((5, 2), np.float32)
    path = tmp_path / "f"
    rows = open_rows(path, array, write(path, array))
    (tmp_path / "new").write_bytes(b"other")
    (tmp_path / "new").replace(path)
    path.unlink()
    np.testing.assert_array_equal(rows, array)


@pytest.mark.parametrize("dtype", [np.float32, ">f4", np.float16, np.float64])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("number", [100, search.CHUNK + 1, 2 * search.CHUNK + 777])
def test_searching_a_file_finds_what_searching_memory_finds(tmp_path, dtype, metric, number):
    rng = np.random.default_rng(number)
    array = rng.normal(size=(number, 3)).astype(dtype)
    query = rng.normal(size=(4, 3)).astype(np.float32)
    path = tmp_path / "f"
    rows = open_rows(path, array, write(path, array, 2**16))
    found, wanted = (top_k(query, gallery, 7, metric=metric) for gallery in (rows, array))
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_array_equal(found[1], wanted[1])


def test_descriptors_are_closed(tmp_path):
    array = np.ones((5, 2), np.float32)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        open_rows(tmp_path / "f", array, write(tmp_path / "f", array))
    assert len(os.listdir("/proc/self/fd")) == before
