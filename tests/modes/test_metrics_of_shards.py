"""The mode `metrics` for a gallery in a folder of files, and for an evaluation that was ended."""

import json
import os

import numpy as np
import pytest
from support import needs
from support.run_main import call_main

from batnet_jax.evaluation import sharded_features
from batnet_jax.evaluation.sharded_features import read_shards
from batnet_jax.retrieval.row_file import RowFile
from batnet_jax.retrieval.streaming import kept_counts
from batnet_jax.runtime.npz import open_npz

ROWS = [40, 1, 60]


@pytest.fixture
def small(monkeypatch):
    """Let every matrix stay in its file."""
    monkeypatch.setattr(sharded_features, "LEAST_BYTES", 0)


@pytest.fixture
def world(tmp_path, small):
    """Write a query set, a gallery as one file, and the same gallery in three files of a folder."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((120, 6)).astype(np.float32)
    pids, cameras = np.arange(120) % 17, rng.integers(0, 3, 120)
    columns = {"features": features, "pids": pids, "cameras": cameras}
    parts = np.split(np.arange(120), [19, 19 + ROWS[0], 20 + ROWS[0]])
    sets = [{name: column[rows] for name, column in columns.items()} for rows in parts]
    np.savez(tmp_path / "query.npz", **sets[0])
    whole = {name: np.concatenate([one[name] for one in sets[1:]]) for name in columns}
    np.savez(tmp_path / "gallery.npz", **whole)
    (tmp_path / "shards").mkdir()
    for number, one in enumerate(sets[1:]):
        np.savez(tmp_path / "shards" / f"{number}.npz", **one)
    return tmp_path


def write_parquet(path, one):
    pyarrow = needs.package("pyarrow")
    features = pyarrow.array(list(one["features"]), pyarrow.list_(pyarrow.float32(), 6))
    columns = {"embedding": features, "pid": one["pids"], "camera": one["cameras"]}
    needs.package("pyarrow.parquet").write_table(pyarrow.table(columns), path)


def measure(world, gallery, *words):
    output = world / "found.json"
    query = world / "query.npz"
    status, said = call_main("metrics", query, world / gallery, f"--output={output}", *words)
    assert status == 0, said
    return {
        k: v for k, v in json.loads(output.read_text()).items() if k not in ("query", "gallery")
    }


def refused(world, *words):
    status, said = call_main("metrics", world / "query.npz", *words)
    assert status == 2
    (line,) = [line for line in said.splitlines() if "error" in line]
    return line


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_folder_is_one_gallery(world, metric):
    found = read_shards(world / "shards", ("",))
    assert all(isinstance(part, RowFile) for part in found.features._parts)
    assert found.features.shape == (sum(ROWS), 6)
    flag = f"--metric={metric}"
    assert measure(world, "shards", flag) == measure(world, "gallery.npz", flag)


@pytest.mark.parametrize(
    "kind", ["npy and csv", "parquet", "compressed", "float16", "small", "columns"]
)
def test_files_of_other_kinds(world, kind, monkeypatch):
    for path in sorted((world / "shards").iterdir()):
        one = dict(np.load(path))
        if kind == "npy and csv":
            np.save(path.with_suffix(".npy"), one.pop("features"))
            rows = zip(one["pids"].tolist(), one["cameras"].tolist(), strict=True)
            text = "pid,camera\n" + "".join(f"{pid},{camera}\n" for pid, camera in rows)
            path.with_suffix(".csv").write_text(text)
            path.unlink()
        elif kind == "parquet":
            write_parquet(path.with_suffix(".parquet"), one)
            path.unlink()
        elif kind == "compressed":
            np.savez_compressed(path, **one)
        elif kind == "columns":
            np.savez(path, **one | {"features": np.asfortranarray(one["features"])})
        elif kind == "float16":
            np.savez(path, **one | {"features": one["features"].astype(np.float16)})
        else:
            monkeypatch.setattr(sharded_features, "LEAST_BYTES", 10**6)
    if kind == "float16":  # as the same numbers in float32
        whole = dict(np.load(world / "gallery.npz"))
        rounded = whole["features"].astype(np.float16).astype(np.float32)
        np.savez(world / "gallery.npz", **whole | {"features": rounded})
    assert measure(world, "shards") == measure(world, "gallery.npz")


def test_a_folder_of_queries(world):
    (world / "queries").mkdir()
    one = dict(np.load(world / "query.npz"))
    for number, rows in enumerate(np.split(np.arange(19), [5])):
        part = {name: column[rows] for name, column in one.items()}
        np.savez(world / "queries" / f"{number}.npz", **part)
    wanted = measure(world, "shards")
    (world / "query.npz").unlink()
    (world / "queries").rename(world / "query.npz")
    assert measure(world, "shards") == wanted == measure(world, "gallery.npz")


def test_a_large_file_is_read_like_a_folder(world, monkeypatch):
    wanted = measure(world, "gallery.npz")
    monkeypatch.setattr(sharded_features, "IN_MEMORY", 0)
    assert measure(world, "gallery.npz") == wanted


DAMAGE = {
    "no file": ("no .npz and no .npy and", lambda folder: [p.unlink() for p in folder.iterdir()]),
    "cut off": ("1.npz' cannot be read", lambda folder: os.truncate(folder / "1.npz", 300)),
    "a bit": ("2.npz' cannot be read", lambda folder: flip(folder / "2.npz", 300)),
    "another dim": ("has features of 5 dimensions, and '0.npz' of 6", lambda folder: np.savez(
        folder / "1.npz", features=np.ones((3, 5), np.float32), pids=np.arange(3))),
    "no pids": ("no identities", lambda folder: np.savez(
        folder / "1.npz", features=np.ones((3, 6), np.float32))),
    "fewer pids": ("shape (3, 6) and 2 identities", lambda folder: np.savez(
        folder / "1.npz", features=np.ones((3, 6), np.float32), pids=np.arange(2))),
    "a vector": ("shape (6,) and 6 identities", lambda folder: np.savez(
        folder / "1.npz", features=np.ones(6, np.float32), pids=np.arange(6))),
    "a folder": ("9.npz' cannot be read", lambda folder: (folder / "9.npz").mkdir()),
    "NaN": ("in 3 of 103 rows (the first is row 40)", lambda folder: np.savez(
        folder / "1.npz", features=np.full((3, 6), np.nan, np.float32), pids=np.arange(3),
        cameras=np.arange(3))),
}  # fmt: skip


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_shard_is_named(world, kind):
    message, damage = DAMAGE[kind]
    damage(world / "shards")
    assert message in refused(world, world / "shards")


def test_it_goes_on(world, monkeypatch):
    """A run that ended while it wrote its figures finds the same figures."""
    monkeypatch.setattr(kept_counts, "EVERY_SECONDS", 0.0)
    wanted = measure(world, "shards")
    counts = world / "counts.npz"
    with monkeypatch.context() as patch:
        patch.setattr(kept_counts.KeptCounts, "remove", ended)
        words = (world / "query.npz", world / "shards", f"--resume={counts}")
        status, said = call_main("metrics", *words)
    assert status == 130
    assert said == "interrupted; the same command continues from the counts that it kept\n"
    assert counts.exists()
    assert measure(world, "shards", f"--resume={counts}") == wanted
    assert not counts.exists()


def ended(self):
    raise KeyboardInterrupt


def test_a_file_of_counts_that_cannot_be_used(world):
    shards = world / "shards"
    assert "does not end in .npz" in refused(world, shards, "--resume=counts")
    assert "folder does not exist" in refused(world, shards, f"--resume={world / 'no' / 'c.npz'}")
    np.save(world / "d.npy", np.zeros((19, 101), np.float32))
    words = (world / "gallery.npz", f"--distances={world / 'd.npy'}", "--resume=c.npz")
    assert "--resume is for features" in refused(world, *words)


def test_every_bit_of_a_large_matrix_counts(world):
    """The checksum covers the header and all values; the last byte of the values, too."""
    path = world / "shards" / "2.npz"
    content = path.read_bytes()
    with open_npz(path) as archive:
        place = archive.place("features")
    for byte in (place.start, place.data, (place.data + place.end) // 2, place.end - 1):
        flip(path, byte)
        assert "2.npz' cannot be read" in refused(world, world / "shards")
        path.write_bytes(content)
    measure(world, "shards")


def test_of_two_damaged_shards_the_first_is_named(world):
    for number in (2, 1):
        flip(world / "shards" / f"{number}.npz", 300)
    assert "1.npz' cannot be read" in refused(world, world / "shards")
