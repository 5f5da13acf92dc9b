"""Damaged files of features end in a UserError, whatever the damage; whole ones are read."""

import os
import random

import numpy as np
import pytest
from scipy.io import savemat

from batnet_jax.errors import UserError
from batnet_jax.evaluation import labelled_features
from batnet_jax.evaluation.labelled_features import read_arrays, read_pair
from batnet_jax.inference.feature_file import open_features

CASES = 150
"""Damaged files of each kind; 500 of each were tried once."""
FEATURES = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
LABELS = {f"{side}_{kind}": np.arange(6) % 3 for side in ("query", "gallery") for kind in "lc"}
BOTH = {"query_f": FEATURES, "gallery_f": FEATURES}
BOTH |= {name.replace("_l", "_label").replace("_c", "_cam"): v for name, v in LABELS.items()}
TABLE = "pid,camera,path\n" + "".join(f"{i % 3},{i % 2},{i}.jpg\n" for i in range(6))
KINDS = ["plain.mat", "packed.mat", "plain.npz", "packed.npz", "table.csv", "features.npy"]


def write(folder, kind):
    path = folder / kind
    if kind.endswith(".mat"):
        savemat(path, BOTH, do_compression=kind.startswith("packed"))
    elif kind == "plain.npz":
        np.savez(path, **BOTH, features=FEATURES)
    elif kind == "packed.npz":
        np.savez_compressed(path, **BOTH, features=FEATURES)
    elif kind == "table.csv":
        path.write_text(TABLE)
    else:
        np.save(path, FEATURES)
    return path


def damaged(content, rng):
    """Return a file with some bytes changed, missing at the end, or more in the middle."""
    content, way = bytearray(content), rng.random()
    place = rng.randrange(len(content))
    if way < 0.5:
        for _ in range(rng.choice((1, 2, 8))):
            content[rng.randrange(len(content))] = rng.choice((0, 255, rng.randrange(256)))
    elif way < 0.75:
        del content[place:]
    else:
        content[place:place] = rng.randbytes(rng.choice((1, 4, 64)))
    return bytes(content)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_told_in_one_line(kind, tmp_path):
    whole, rng = write(tmp_path, kind).read_bytes(), random.Random(kind)
    path = tmp_path / f"damaged{kind[kind.index('.') :]}"
    refusals = []
    for _ in range(CASES):
        path.write_bytes(damaged(whole, rng))
        for read in (read_arrays, open_features):
            try:
                read(path)
            except UserError as error:
                refusals.append(str(error))
    assert len(refusals) > CASES // 10
    assert not any("\n" in refusal for refusal in refusals)


@pytest.mark.parametrize("kind", KINDS[:4])
def test_whole_files_are_read(kind, tmp_path):
    pair = read_pair(write(tmp_path, kind), None)
    for side in pair.query, pair.gallery:
        np.testing.assert_array_equal(side.features, FEATURES)
        assert side.pids.tolist() == side.cameras.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("packed", [False, True])
def test_strings_of_a_mat(packed, tmp_path):
    """A matrix of characters and a cell array: MATLAB pads the rows of the first."""
    names = ["Ann", "Björn", "c"]
    cells = np.array(names, object)
    arrays = {"features": FEATURES[:3], "names": np.array(names), "cameras": cells}
    savemat(tmp_path / "a.mat", arrays, do_compression=packed)
    found = read_arrays(tmp_path / "a.mat")
    assert [name.strip() for name in found["names"]] == names
    assert found["cameras"].tolist() == names


def test_what_is_neither_numbers_nor_strings_is_passed_over(tmp_path):
    savemat(tmp_path / "a.mat", BOTH | {"options": {"rate": 0.1, "name": "x"}})
    assert read_arrays(tmp_path / "a.mat").keys() == BOTH.keys()


def test_a_mat_of_version_7_3_says_so(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(600))
    with pytest.raises(UserError, match=r"version 7\.3: save it with scipy"):
        read_arrays(tmp_path / "a.mat")


def test_cells_of_a_table_may_hold_line_breaks(tmp_path):
    """Also the separators that Python's splitlines knows, such as U+2028."""
    rows = 'pid,camera,path\n1,2,"a\nb.jpg"\n3,4,c\u2028d.jpg\n'
    (tmp_path / "a.csv").write_text(rows, encoding="utf-8")
    found = read_arrays(tmp_path / "a.csv")
    assert found["path"].tolist() == ["a\nb.jpg", "c\u2028d.jpg"]
    assert found["pid"].tolist() == ["1", "3"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), (0, 4), (5,), (6, 4), (2, 3, 4)])
@pytest.mark.parametrize("most", [0, 10**9])
def test_an_npy_is_read_or_mapped(most, shape, order, tmp_path, monkeypatch):
    monkeypatch.setattr(labelled_features, "IN_MEMORY", most)
    values = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape), order=order)
    np.save(tmp_path / "x.npy", values)
    found = read_arrays(tmp_path / "x.npy")["features"]
    np.testing.assert_array_equal(found, values)
    assert found.dtype == values.dtype
    assert isinstance(found, np.memmap) == (most == 0 and values.size > 0)


def test_an_npy_that_is_cut_off_while_it_is_used(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.ones((1000, 64)))
    found = read_arrays(path)["features"]
    os.truncate(path, 200)
    assert found.sum() == 64_000  # a mapped file would end the process here by SIGBUS
