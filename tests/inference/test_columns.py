"""Columns of feature files: what is known of each image beside its feature."""

import zipfile

import numpy as np
import pytest
from support.fuzzing import survives

from batnet_jax.errors import UserError
from batnet_jax.inference import feature_file
from batnet_jax.inference.feature_file import FeatureFile, open_features, write_features

FEATURES = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
PATHS = [f"{i}.jpg" for i in range(4)]
COLUMNS = {
    "identity": np.array(["Łucja", "", "ann", "bob"]),
    "camera": np.array([1, 2, 3, 2**40]),
    "x0": np.array([0.5, np.nan, -1, 2], np.float32),
    "is_new": np.array([True, False, True, True]),
    "größe in m": np.array([1, 2, 3, 4], ">i2"),
}


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "F.npz"
    write_features(path, [FEATURES], shape=(4, 3), paths=PATHS, columns=COLUMNS)
    return path


def is_same(found):
    """Return whether a file's contents are those that were written."""
    assert list(found) == list(COLUMNS)
    for name, values in COLUMNS.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype.kind == values.dtype.kind
    return True


@pytest.mark.parametrize("in_memory", [0, 10**9])
def test_columns_return_as_they_were_written(written, monkeypatch, in_memory):
    monkeypatch.setattr(feature_file, "IN_MEMORY", in_memory)
    found = open_features(written)
    assert is_same(found.columns)
    np.testing.assert_array_equal(found.features, FEATURES)
    assert found.paths == PATHS


def test_numpy_reads_the_columns(written):
    with np.load(written) as arrays:
        assert set(arrays) == {"features", "paths", *COLUMNS}
        assert is_same({name: arrays[name] for name in COLUMNS})
    with zipfile.ZipFile(written) as archive:
        assert archive.testzip() is None


def test_files_without_columns_have_none(tmp_path):
    write_features(tmp_path / "F.npz", [FEATURES], shape=(4, 3), paths=PATHS)
    np.save(tmp_path / "F.npy", FEATURES)
    for name in ("F.npz", "F.npy"):
        assert dict(open_features(tmp_path / name).columns) == {}
    assert dict(FeatureFile(FEATURES, None).columns) == {}


def test_files_of_others_may_hold_other_arrays(tmp_path):
    """Bytes become strings; arrays that are no columns are left alone."""
    names = np.array(["é".encode(), b"b", b"c", b"d"])
    others = {"mean": FEATURES[0, 0], "mask": FEATURES, "objects": np.array([None] * 3)}
    np.savez_compressed(tmp_path / "F.npz", features=FEATURES, name=names, **others)
    columns = open_features(tmp_path / "F.npz").columns
    assert {name: values.tolist() for name, values in columns.items()} == {
        "name": ["é", "b", "c", "d"]
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"paths": PATHS}, "cannot be named 'paths'"),
        ({"features": [1, 2, 3, 4]}, "cannot be named 'features'"),
        ({"": [1, 2, 3, 4]}, "cannot be named ''"),
        ({" a": [1, 2, 3, 4]}, "cannot be named ' a'"),
        ({"a/b": [1, 2, 3, 4]}, "cannot be named 'a/b'"),
        ({"a\n\x1b[2J": [1, 2, 3, 4]}, "cannot be named"),
        ({"\udc80": [1, 2, 3, 4]}, "cannot be named"),
        ({"a" * 101: [1, 2, 3, 4]}, "cannot be named"),
        ({3: [1, 2, 3, 4]}, "cannot be named 3"),
        ({"camera": [1, 2, 3]}, r"camera has the shape \(3,\)"),
        ({"camera": np.zeros((4, 1))}, r"camera has the shape \(4, 1\)"),
        ({"camera": [None] * 4}, "camera has .* the type object"),
        ({"camera": [1j] * 4}, "camera has .* the type complex128"),
        ({"camera": [b"\xff"] * 4}, "camera holds bytes that are not UTF-8"),
    ],
)
def test_other_columns_are_not_written(tmp_path, columns, message):
    with pytest.raises(UserError, match=message) as info:
        write_features(tmp_path / "F.npz", [FEATURES], shape=(4, 3), paths=PATHS, columns=columns)
    assert "\n" not in str(info.value)
    assert not list(tmp_path.iterdir())


def test_a_column_of_another_length_is_refused(tmp_path):
    np.savez(tmp_path / "F.npz", features=FEATURES, camera=[1, 2, 3])
    with pytest.raises(UserError, match="column camera has 3 values for 4 images"):
        open_features(tmp_path / "F.npz")


def test_each_byte_of_a_file_with_columns(written):
    """One bit of it: refused, or harmless, as in dates; nothing is lost or changed."""
    whole, harmless = written.read_bytes(), 0
    for place in range(0, len(whole), 3):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        written.write_bytes(content)
        found = survives(open_features, written)
        harmless += not isinstance(found, str) and is_same(found.columns)
    assert 0 < harmless < len(whole) // 3 // 2
