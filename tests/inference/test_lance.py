"""Galleries in LanceDB: searched and filtered as a file is, loaded by path, killed."""

import os
import subprocess
import sys

import numpy as np
import pytest
from support import needs

from batnet_jax.errors import UserError
from batnet_jax.inference import lance_load
from batnet_jax.inference.feature_file import FeatureFile, write_features
from batnet_jax.inference.gallery import choose_rows, open_kept, search_lists
from batnet_jax.inference.lance_gallery import open_lance
from batnet_jax.inference.lance_load import delete, load
from batnet_jax.inference.own_files import find_own_files
from batnet_jax.inference.where import find_rows
from batnet_jax.modes import load as load_mode
from batnet_jax.retrieval import top_k

FINGERPRINT = "0123456789abcdef" * 2
ODD = ["a'b.jpg", "a''; drop table images --.jpg", "a\nb.jpg", "100%_\\.jpg", "é\u202e.jpg"]


@pytest.fixture(autouse=True)
def _lancedb():
    needs.package("lancedb")


@pytest.fixture
def target(tmp_path):
    return f"lancedb:{tmp_path / 'a gallery'}"


def gallery(count=40, seed=0, dim=8, fingerprint=FINGERPRINT, prefix=""):
    rng = np.random.default_rng(seed)
    paths = [f"{prefix}{name}" for name in [*ODD, *(f"{i % 3}/{i}.jpg" for i in range(count))]]
    columns = {
        "camera": np.arange(count) % 4,
        "a name": np.array([f"x'{i % 5}" for i in range(count)]),
        "time": np.where(np.arange(count) % 7 == 0, np.nan, np.arange(count) / 2),
        "day": np.arange(count) % 2 == 0,
    }
    features = rng.standard_normal((count, dim)).astype(np.float32)
    return FeatureFile(features, paths[:count], fingerprint, columns)


def paths_found(opened, query, top, where=None):
    rows = choose_rows(opened, where)
    lists = search_lists(query, opened.features, top, rows=rows)
    return [[opened.paths[i] for i in indices] for indices, _ in lists]


def test_a_database_is_searched_as_its_file_is(target, monkeypatch):
    monkeypatch.setattr(lance_load, "ROWS_AT_ONCE", 16)
    source, query = gallery(), gallery(6, seed=1).features
    told = []
    assert load(source, target, progress=told.append) == 40
    assert sum(told) == 40
    opened = open_kept(target)
    assert (len(opened.features), opened.features.shape[1]) == (40, 8)
    assert opened.fingerprint == FINGERPRINT
    exact, cosines = top_k(query, source.features, 7)
    assert paths_found(opened, query, 7) == [[source.paths[i] for i in row] for row in exact]
    scores = [s for _, s in search_lists(query, opened.features, 7)]
    np.testing.assert_allclose(scores, cosines, atol=1e-6)  # of float32
    assert [len(row) for row in paths_found(opened, query[:1], 99)] == [40]
    assert opened.features.nearest(query[:0], 3, None)[0].shape[0] == 0


@pytest.mark.parametrize(
    "where",
    [
        "camera = 3", "camera != 3", "camera in (1, 2)", "not (camera = 1 or camera = 2)",
        "camera > 1.5", "camera <= 1.5", "camera = 1.5", "camera < 99999999999999999999999",
        "camera >= 99999999999999999999999", "camera = 99999999999999999999999", "camera > 1e999",
        "camera = -9223372036854775808", "camera > -9223372036854775808",
        "camera in (9223372036854775807, -9223372036854775808, 2)",
        "time > 10", "time <= 10", "time != 10", "time < 1e999", "time = 2.5", "time > 1970-01-01",
        "day = true", "day < true", "day >= false", "day > true", "not day = yes",
        "'a name' = \"x'2\"", "'a name' > \"x'2\"", "'a name' != \"x'2\"",
        "path like '1/*'", "path like '*%_\\*'", "path like 'a?b.jpg'", "path not like '*.jpg'",
        "path = 'a''b.jpg'", "path in ('a''''; drop table images --.jpg')",
        "path != \"' OR 1=1 --\"",
        "camera = 1 and time > 3 or path like '2/*' and not day = true",
    ],
)  # fmt: skip
def test_filters_pass_what_they_pass_in_a_file(where, database):
    source, opened = database
    rows = find_rows(where, source.columns, source.paths, 40)
    query = gallery(1, seed=1).features
    wanted = search_lists(query, source.features, 40, rows=rows)[0][0]
    assert paths_found(opened, query, 40, where) == [[source.paths[i] for i in wanted]]


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    target = f"lancedb:{tmp_path_factory.mktemp('lance')}"
    load(gallery(), target)
    return gallery(), open_lance(target)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("colour = red", "no column 'colour'"),
        ("path like '[ab]*'", "knows \\* and \\?"),
        ("path > 3", "quote it"),
        ("features = 3", "no column 'features'"),
        ("camera = red", "neither a number"),
        ("camera = 1 or " * 600 + "camera = 1", "compares more than"),
        ("camera in (" + "1, " * 600 + "1)", "compares more than"),
    ],
)
def test_filters_that_cannot_be(where, message, database):
    with pytest.raises(UserError, match=message):
        choose_rows(database[1], where)


def test_a_long_filter_and_a_deep_one(database):
    long = " or ".join(["camera = 9"] * 99 + ["camera = 1"])
    deep = "(" * 40 + "camera = 1" + ") or camera = 9) and camera != 2" * 20
    nots = "not " * 20 + "camera = 1"
    for where in (long, nots):
        assert len(paths_found(database[1], gallery(1).features, 40, where)[0]) == 10
    with pytest.raises(UserError, match="too deep for LanceDB"):
        choose_rows(database[1], deep)


def test_an_image_of_a_known_path_is_replaced_and_others_are_removed(target):
    load(gallery(), target)
    before = open_lance(target)
    changed = gallery(30, seed=5)
    assert load(changed, target) == 40
    query = gallery(1, seed=1).features
    wanted = np.concatenate([changed.features, gallery().features[30:]])
    exact = top_k(query, wanted, 40)[0][0]
    assert paths_found(open_lance(target), query, 40) == [[gallery().paths[i] for i in exact]]
    # What was opened before still sees what it saw.
    exact = top_k(query, gallery().features, 40)[0][0]
    assert paths_found(before, query, 40) == [[gallery().paths[i] for i in exact]]
    assert delete(target, "path like '1/*'") == sum(p.startswith("1/") for p in gallery().paths)
    left = paths_found(open_lance(target), query, 40)[0]
    assert sorted(left) == sorted(p for p in gallery().paths if not p.startswith("1/"))


def test_what_does_not_fit_is_refused_and_changes_nothing(target, tmp_path):
    load(gallery(), target)
    twice = gallery()._replace(paths=["x"] * 40)
    odd = gallery(41)._replace(paths=[*gallery().paths, "\udcff.jpg"], columns=gallery(41).columns)
    infinite = gallery(seed=7)._replace(features=np.full((40, 8), np.nan, np.float32))
    for given, message in (
        (gallery(fingerprint="f" * 32), "of another model: load into another folder"),
        (gallery(fingerprint=None), "of another model"),
        (gallery(dim=9), "other names or types"),
        (gallery()._replace(columns={}), "other names or types"),
        (gallery()._replace(columns={"a.b": np.zeros(40)}), "LanceDB cannot hold the column 'a.b'"),
        (gallery()._replace(columns={"_rowid": np.zeros(40)}), "needs the name _rowid itself"),
        (twice, "an image twice"),
        (gallery()._replace(paths=None), "only images with paths"),
        (odd, "names must be UTF-8"),
        (infinite, "not finite"),
    ):
        assert message in survives_load(given, target)
        assert len(open_lance(target).features) == 40
    for name in ("lancedb:", f"lancedb:{tmp_path}/none", f"lancedb:{tmp_path}"):
        with pytest.raises(UserError):
            open_lance(name)
    (tmp_path / "file").write_text("x")
    assert "cannot write" in survives_load(gallery(), f"lancedb:{tmp_path / 'file'}")


def survives_load(given, target):
    with pytest.raises(UserError) as info:
        load(given, target)
    assert "\n" not in str(info.value)
    return str(info.value)


KILLED = """
import os, sys
sys.path[:0] = sys.argv[4:]
from batnet_jax.inference import feature_file, lance_load
lance_load.ROWS_AT_ONCE = 8
steps, last = [], int(sys.argv[3])
def step(name, work):
    def killed(*a, **k):
        steps.append(name)
        if len(steps) == last: os._exit(9)
        found = work(*a, **k)
        steps.append(name)
        if len(steps) == last: os._exit(9)
        return found
    return killed
for name in ("_batch", "_write_progress", "_finish", "_go_back"):
    setattr(lance_load, name, step(name, getattr(lance_load, name)))
lance_load.load(feature_file.open_features(__import__("pathlib").Path(sys.argv[1])), sys.argv[2])
"""


def _kills():
    """Before and after each step of a load of three batches; two of them take no slow test."""
    for is_first in (True, False):
        for last in range(1, 19):
            quick = (is_first, last) in ((True, 6), (False, 17))
            yield pytest.param(is_first, last, marks=[] if quick else pytest.mark.slow)


@pytest.mark.parametrize(("is_first", "last"), list(_kills()))
def test_a_killed_load_is_not_seen_and_goes_on(is_first, last, target, tmp_path):
    old, new = gallery(20), gallery(20, seed=3, prefix="new/")
    if not is_first:
        load(old, target)
    write_features(
        tmp_path / "new.npz", [new.features], shape=(20, 8), paths=new.paths,
        fingerprint=FINGERPRINT, columns=new.columns,
    )  # fmt: skip
    root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "new.npz"), target, str(last), root]
    ended = subprocess.run(command, capture_output=True, text=True).returncode
    assert ended == 9
    is_done = last == 18  # behind the last step
    if is_done:
        assert len(open_lance(target).features) == (20 if is_first else 40)
    elif is_first:
        with pytest.raises(UserError, match=r"is not fully loaded|no gallery that LanceDB"):
            open_lance(target)
    else:
        found = paths_found(open_lance(target), gallery(1).features, 99)[0]
        assert sorted(found) == sorted(old.paths)
    wanted = new.paths if is_first else [*old.paths, *new.paths]
    told = []
    assert load(new, target, progress=told.append) == len(wanted)
    found = paths_found(open_lance(target), gallery(1).features, 99)[0]
    assert sorted(found) == sorted(wanted)


def test_another_load_begins_where_the_whole_one_ended(target, monkeypatch):
    load(gallery(20), target)
    monkeypatch.setattr(lance_load, "_finish", lambda *_: 0)
    load(gallery(20, seed=3, prefix="half/"), target)
    monkeypatch.undo()
    with pytest.raises(UserError, match="give the same load again first"):
        delete(target, "camera = 1")
    assert load(gallery(10, seed=4, prefix="other/"), target) == 30


def test_two_writers_take_turns(target):
    load(gallery(), target)
    with lance_load._opened(needs.package("lancedb"), target):
        assert "being loaded by another process" in survives_load(gallery(), target)


def test_the_engine_s_own_index(target):
    source = gallery(1200, dim=16)
    query = gallery(20, seed=1, dim=16).features
    load(source, target, kind="hnsw")
    opened = open_lance(target)
    assert [index.columns for index in opened.features.table.list_indices()] == [["features"]]
    exact = top_k(query, source.features, 5)[0]
    found = paths_found(opened, query, 5)
    # Four lists of the index, and all of them are looked at.
    same = [
        np.isin([source.paths[i] for i in a], b).mean() for a, b in zip(exact, found, strict=True)
    ]
    assert np.mean(same) > 0.9


def test_a_query_s_own_file_and_numbers_of_images(target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = gallery()
    load(source, target)
    opened = open_lance(target)
    own = find_own_files(
        [source.paths[9], "none.jpg", f"{tmp_path}/{source.paths[10]}"], opened.paths
    )
    assert [[opened.paths[i] for i in own.of(q)] for q in range(3)] == [
        [source.paths[9]], [], [source.paths[10]],
    ]  # fmt: skip
    number = int(own.items[0])
    np.testing.assert_array_equal(opened.features.feature(number), source.features[9:10])
    assert len(set(opened.features.sample(7))) == 7
    assert opened.features.path(2**50) == ""
    with pytest.raises(UserError):
        opened.features.feature(2**50)


def test_the_mode(target, tmp_path, capsys):
    source = gallery()
    write_features(
        tmp_path / "F.npz", [source.features], shape=(40, 8), paths=source.paths,
        fingerprint=FINGERPRINT, columns=source.columns,
    )  # fmt: skip
    load_mode.run(None, tmp_path, to=target, gallery=tmp_path / "F.npz")
    assert "loaded: 40 images of 8 dimensions" in capsys.readouterr().out
    load_mode.run(None, tmp_path, to=target, delete="camera = 1")
    assert "removed: 10 images" in capsys.readouterr().out
    for arguments, message in (
        ({"to": str(tmp_path), "gallery": tmp_path / "F.npz"}, "--to=.* names no database"),
        ({"to": target}, "needs --gallery, or --delete"),
        ({"to": target, "gallery": tmp_path}, "is not a file of features"),
        ({"to": f"lancedb:{tmp_path}/x", "delete": "camera = 1"}, "holds no gallery"),
    ):
        with pytest.raises(UserError, match=message):
            load_mode.run(None, tmp_path, **arguments)


def test_without_lancedb(target, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(UserError, match=r"pip install 'batnet-jax\[lancedb\]'"):
        open_lance(target)


@pytest.mark.slow
def test_the_first_places_of_100_000_features_are_the_exact_ones(target):
    count, dim = 100_000, 512
    rng = np.random.default_rng(0)
    people = rng.standard_normal((5000, dim), np.float32)
    features = people[rng.integers(0, 5000, count)] + rng.standard_normal((count, dim), np.float32)
    source = FeatureFile(features, [f"{i}.jpg" for i in range(count)], FINGERPRINT)
    load(source, target, kind="flat")
    query = people[:50] + rng.standard_normal((50, dim), np.float32)
    exact = top_k(query, features, 10)[0]
    found = paths_found(open_lance(target), query, 10)
    assert found == [[f"{i}.jpg" for i in row] for row in exact]
