"""The labels of prepared data are read as they were written, or the data set is called damaged."""

import re

import numpy as np
import pytest
from support.tiny_datasets import MARKET, contents, write_tree

from batnet_jax.data import load_dataset
from batnet_jax.data.label_index import SEAL, read_index, seal_of, write_index
from batnet_jax.errors import UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a prepared data set."""
    place = tmp_path_factory.mktemp("index")
    write_tree(place / "market", MARKET)
    load_dataset("market1501", data_dir=place / "data", manual_dir=place / "market")
    return place / "data"


@pytest.fixture
def index(whole):
    """Return the path of the index and its arrays; put the file back at the end."""
    (path,) = whole.rglob("index.npz")
    content = path.read_bytes()
    with np.load(path) as arrays:
        yield path, dict(arrays)
    path.write_bytes(content)


def load(path):
    return load_dataset("market1501", data_dir=path.parents[2], manual_dir=path.parent / "none")


def write_unsealed(path, arrays):
    np.savez(path, **{name: array for name, array in arrays.items() if name != SEAL})


def test_written_and_read(tmp_path):
    arrays = {
        "train/pid": np.array([0, 0, 1]), "train/camera": np.array([-1, -1, -1]),
        "train/filename": np.array([b"a.png", "\xe9/b.png".encode(), b"c.png"]),
        "train/shape": np.ones((3, 2), np.int32), "train/digest": np.uint64([1, 2, 2**64 - 1]),
        "identity_names": np.array([b"ann", b"bob"]),
    }  # fmt: skip
    path = tmp_path / "index.npz"
    write_index(path, arrays)
    found = read_index(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with np.load(path) as stored:  # any other reader finds the arrays, too
        assert stored.files == [*arrays, SEAL]


def test_the_seal_tells_arrays_apart():
    base = {"a": np.arange(4), "b": np.array([b"x"])}
    assert seal_of(base) == seal_of(dict(reversed(base.items())))
    others = [
        {"a": np.arange(4)}, {"a": np.arange(4, dtype=np.int32), "b": base["b"]},
        {"a": np.arange(4).reshape(2, 2), "b": base["b"]}, {"b": base["a"], "a": base["b"]},
        {"a": np.array([0, 1, 3, 2]), "b": base["b"]}, {"a": np.arange(4), "b": np.array([b"y"])},
    ]  # fmt: skip
    assert len({seal_of(arrays) for arrays in (base, *others)}) == len(others) + 1


def test_an_older_index_opens_with_one_note(index, capfd):
    path, arrays = index
    sealed = contents(load(path))
    assert capfd.readouterr().err == ""
    write_unsealed(path, arrays)
    assert contents(load(path)) == sealed
    write_unsealed(
        path, {n: a for n, a in arrays.items() if "digest" not in n and "shape" not in n}
    )
    assert contents(load(path)) == sealed
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(
        re.match(r"note: '.*index\.npz' is of an older version and has no", x) for x in lines
    )


CHANGES = {
    "too few pids": ("train/pid", lambda a: a[:-1]),
    "too many pids": ("query/pid", lambda a: np.append(a, 5)),
    "float pids": ("train/pid", lambda a: a.astype(float)),
    "pids of 32 bits": ("gallery/pid", lambda a: a.astype(np.int32)),
    "unsigned pids": ("gallery/pid", lambda a: a.astype(np.uint64)),
    "pids in a column": ("train/pid", lambda a: a[:, None]),
    "negative pids": ("train/pid", lambda a: a - 5000),
    "pids as strings": ("train/pid", lambda a: a.astype("S")),
    "one pid": ("train/pid", lambda a: a[0]),
    "no pids": ("train/pid", lambda a: a[:0]),
    "float cameras": ("query/camera", lambda a: a / 2),
    "negative cameras": ("query/camera", lambda a: a - 50),
    "too few cameras": ("query/camera", lambda a: a[1:]),
    "names as text": ("query/filename", lambda a: a.astype("U")),
    "names that are not UTF-8": ("query/filename", lambda a: np.full(len(a), b"\xff")),
    "other names": ("query/filename", lambda a: np.full(len(a), b"x.png")),
    "too few names": ("gallery/filename", lambda a: a[:-1]),
    "shapes": ("train/shape", lambda a: a[:, :1]),
    "shapes of floats": ("train/shape", lambda a: a.astype(np.float32)),
    "digests": ("train/digest", lambda a: a[:1]),
    "people": ("identity_names", lambda a: np.array([b"only one"])),
    "people as numbers": ("identity_names", lambda a: np.arange(9000)),
}


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_columns_that_cannot_be(index, change, sealed):
    """Also with the seal that an attacker would compute."""
    path, arrays = index
    name, act = CHANGES[change]
    changed = arrays | {name: act(arrays[name])}
    if sealed:
        del changed[SEAL]
        write_index(path, changed)
    else:
        write_unsealed(path, changed)
    with pytest.raises(UserError, match=r"' is damaged \(.+\): delete it, and run again") as error:
        load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["train/pid", "query/camera", "gallery/filename", "identity_names"]
)
def test_missing_columns(index, name):
    path, arrays = index
    write_unsealed(path, {n: a for n, a in arrays.items() if n != name})
    with pytest.raises(UserError, match="is damaged"):
        load(path)


def test_possible_labels_of_another_data_set(index):
    """Only the seal can tell."""
    path, arrays = index
    np.savez(path, **arrays | {"train/pid": arrays["train/pid"] + 1})
    with pytest.raises(UserError, match=r"is damaged \(its labels do not match their checksum\)"):
        load(path)


def test_images_are_compared_with_their_digests(index):
    path, arrays = index
    del arrays[SEAL]
    write_index(path, arrays | {"query/digest": arrays["query/digest"] + np.uint64(1)})
    dataset = load(path)
    assert dataset.gallery.encoded(0)
    with pytest.raises(OSError, match="image 0 does not match its checksum in '"):
        dataset.query.encoded(0)
