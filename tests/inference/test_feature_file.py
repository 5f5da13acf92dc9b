"""Feature files: what we write, what NumPy writes, and files that are neither."""

import zipfile

import numpy as np
import pytest

from batnet_jax.errors import UserError
from batnet_jax.inference import feature_file
from batnet_jax.inference.feature_file import open_features, write_features
from batnet_jax.retrieval import top_k
from batnet_jax.retrieval.row_file import RowFile

FEATURES = np.random.default_rng(0).standard_normal((70, 9)).astype(np.float32)
PATHS = [f"a/é {i}.jpg" for i in range(70)]


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "F.npz"
    write_features(path, np.split(FEATURES, [30, 60]), shape=(70, 9), paths=PATHS)
    return path


def test_numpy_reads_a_written_file(written):
    with np.load(written) as arrays:
        np.testing.assert_array_equal(arrays["features"], FEATURES)
        assert arrays["features"].dtype == np.float32
        assert arrays["paths"].tolist() == PATHS
    with zipfile.ZipFile(written) as archive:
        assert archive.testzip() is None


def test_few_features_are_in_memory_and_many_stay_in_the_file(written, monkeypatch):
    found = open_features(written)
    assert isinstance(found.features, np.ndarray)
    assert found.features.ctypes.data % 64 == 0
    monkeypatch.setattr(feature_file, "IN_MEMORY", 100)
    many = open_features(written)
    assert isinstance(many.features, RowFile)
    assert (many.features.shape, many.features.dtype) == ((70, 9), np.float32)
    for opened in (found, many):
        np.testing.assert_array_equal(opened.features, FEATURES)
        assert opened.paths == PATHS


def test_other_programs_can_map_the_features(written):
    with zipfile.ZipFile(written) as archive, archive.open("features.npy") as member:
        header = len(member.read()) - FEATURES.nbytes
        start = written.read_bytes().index(b"\x93NUMPY") + header
    assert start % 64 == 0
    np.testing.assert_array_equal(np.memmap(written, np.float32, "r", start, (70, 9)), FEATURES)


def test_features_in_columns_are_read(tmp_path, monkeypatch):
    """As MATLAB and Fortran store them; they are kept in memory, whatever their size."""
    monkeypatch.setattr(feature_file, "IN_MEMORY", 0)
    columns = np.asfortranarray(FEATURES)
    np.save(tmp_path / "F.npy", columns)
    np.savez(tmp_path / "F.npz", features=columns)
    np.savez_compressed(tmp_path / "G.npz", features=columns)
    for name in ("F.npy", "F.npz", "G.npz"):
        found = open_features(tmp_path / name).features
        np.testing.assert_array_equal(found, FEATURES)
        assert top_k(FEATURES[:3], found, 1)[0].ravel().tolist() == [0, 1, 2]


@pytest.mark.parametrize("how", ["savez", "savez_compressed", "npy", "no paths"])
def test_files_of_numpy_are_read(tmp_path, how):
    path = tmp_path / ("F.npy" if how == "npy" else "F.npz")
    if how == "npy":
        np.save(path, FEATURES)
    elif how == "no paths":
        np.savez(path, features=FEATURES)
    else:
        getattr(np, how)(path, features=FEATURES, paths=PATHS)
    found = open_features(path)
    np.testing.assert_array_equal(found.features, FEATURES)
    assert found.paths == (PATHS if how.startswith("savez") else None)
    indices, _ = top_k(found.features[:3], found.features, 1)
    assert indices.ravel().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": FEATURES}, "holds other, not `features`"),
        ({"features": FEATURES[0]}, r"shape \(9,\)"),
        ({"features": FEATURES.astype(int)}, "int64"),
        ({"features": FEATURES, "paths": PATHS[1:]}, "70 features and 69 paths"),
        ({"features": np.array([None])}, "cannot be read"),
        (None, "No such file"),
        (b"text", "cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "F.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, **content)
    with pytest.raises(UserError, match=message) as info:
        open_features(path)
    assert "\n" not in str(info.value)


def test_a_failure_leaves_the_old_file(written):
    before = written.read_bytes()

    def batches():
        yield FEATURES
        raise KeyError("half way")

    with pytest.raises(KeyError):
        write_features(written, batches(), shape=(140, 9), paths=PATHS * 2)
    assert written.read_bytes() == before
    assert [p.name for p in written.parent.iterdir()] == ["F.npz"]
