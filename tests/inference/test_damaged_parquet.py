"""A changed Parquet file or a changed gallery in shards is refused, or has what was written."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from support.fuzzing import examples, fuzz_files, survives
from support.fuzzing import limits as limits

from batnet_jax.evaluation.labelled_features import read_arrays
from batnet_jax.evaluation.parquet import write
from batnet_jax.evaluation.parquet.write import write_parquet
from batnet_jax.inference import feature_file
from batnet_jax.inference.feature_file import open_features

FEATURES = np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)
PATHS = [f"p/é{i}.jpg" for i in range(40)]
CAMERAS = np.arange(40) % 6


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(write, "_GROUP_ROWS", 16)


def ours(path):
    write_parquet(
        path,
        [FEATURES],
        shape=FEATURES.shape,
        paths=PATHS,
        fingerprint="ab" * 16,
        columns={"camera": CAMERAS},
    )
    return path.read_bytes()


def theirs(path):
    table = pa.table({"embedding": list(FEATURES), "path": PATHS, "camera": CAMERAS})
    parquet.write_table(table, path, row_group_size=16)
    return path.read_bytes()


def read(path):
    """Return all that a search uses of a file."""
    found = open_features(path)
    paths = None if found.paths is None else list(found.paths)
    return np.asarray(found.features), paths, found.columns.get("camera")


def is_same(found):
    """Return whether a file was read; assert that it has the contents that were written."""
    if isinstance(found, str):
        return False
    assert found[0].tobytes() == FEATURES.tobytes()
    assert found[1] in (PATHS, None)
    assert found[2] is None or found[2].tolist() == CAMERAS.tolist()
    return True


@pytest.mark.parametrize("in_memory", [0, 10**9])
def test_each_byte_of_a_written_file(tmp_path, monkeypatch, in_memory):
    """Every eleventh byte, one bit of it: refused, or harmless."""
    monkeypatch.setattr(feature_file, "IN_MEMORY", in_memory)
    path = tmp_path / "F.parquet"
    whole, harmless = ours(path), 0
    assert is_same(read(path))
    for place in range(0, len(whole), 11):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        harmless += is_same(survives(read, path, folder=tmp_path))
    assert 0 < harmless < len(whole) // 11 // 2  # statistics, and names of other columns


@examples(100, 5_000)
@pytest.mark.parametrize("kind", [ours, theirs])
def test_damaged_files(kind, tmp_path, examples):
    """Another program's file may have no checksum: what is read must only be of bounded size."""
    path = tmp_path / "F.parquet"
    whole = kind(path)

    def reads(content):
        path.write_bytes(content)
        survives(read_arrays, path, folder=tmp_path)
        found = survives(read, path, folder=tmp_path)
        if kind is ours:
            return is_same(found)
        return not isinstance(found, str) and found[0].nbytes <= 100 * len(content)

    fuzz_files(examples, reads, [whole])
