"""`serve` takes a new version of a database and of a folder of shards without a restart."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import needs
from support.mean_colour_model import config, use_colours

from batnet_jax.evaluation.parquet.write import write_parquet
from batnet_jax.inference import shards
from batnet_jax.inference.feature_file import FeatureFile
from batnet_jax.inference.search import Searcher

EYE = np.eye(3, dtype=np.float32)


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """Return a function that follows a gallery, and answers with a client, too."""
    needs.package("starlette")
    needs.package("httpx2")
    use_colours(monkeypatch)
    from starlette.testclient import TestClient

    from batnet_jax.modes.serve.access import HostNames
    from batnet_jax.modes.serve.app import make_app
    from batnet_jax.modes.serve.following import Following

    def make(*galleries):
        following = Following(Searcher(config(), tmp_path / "run", galleries))
        app = make_app(following, HostNames("127.0.0.1"))
        return following, TestClient(app, base_url="http://localhost")

    return make


@pytest.fixture
def database(tmp_path):
    """Return a database of three images."""
    needs.package("lancedb")
    load_more(target := Path(f"lancedb:{tmp_path}/db"), ["a", "b", "c"])
    return target


def load_more(target, paths):
    from batnet_jax.inference.lance_load import load

    load(FeatureFile(np.resize(EYE, (len(paths), 3)), paths), str(target))


def state(client):
    found = client.get("/health").json()
    return found["gallery"], found["changes"], found["problem"]


def paths_of(client):
    names = {one["path"] for one in client.get("/gallery?samples=50").json()["samples"]}
    assert len(names) == client.get("/gallery").json()["gallery"]
    return names


def test_a_database_that_is_loaded_further(follow, database, capsys):
    from batnet_jax.inference.lance_load import delete

    following, client = follow(database)
    following.look()
    assert state(client) == (3, 0, None)
    load_more(database, ["c", "d", "e"])
    assert paths_of(client) == {"a", "b", "c"}  # until somebody looks
    following.look()
    assert state(client) == (5, 1, None)
    assert paths_of(client) == {"a", "b", "c", "d", "e"}
    delete(database, "path = 'a'")
    following.look()
    assert state(client) == (4, 2, None)
    assert client.get("/gallery/0/similar?changes=1").status_code == 410
    said = capsys.readouterr().err
    assert said.count("the gallery has changed") == 2
    following.look()
    assert state(client) == (4, 2, None)
    assert capsys.readouterr().err == ""


def test_a_load_that_is_under_way_is_not_seen(follow, database):
    from batnet_jax.inference.lance_gallery import IMAGES, import_lancedb, uri_of

    following, client = follow(database)
    table = import_lancedb("").connect(uri_of(database)).open_table(IMAGES)
    table.delete("path = 'a'")  # and the tag is not moved
    following.look()
    assert state(client) == (3, 0, None)
    assert paths_of(client) == {"a", "b", "c"}


def test_a_database_that_is_made_anew_or_is_gone(follow, database, capsys):
    """Its versions begin anew; a folder without a whole gallery changes nothing."""
    folder = Path(str(database).removeprefix("lancedb:"))
    following, client = follow(database)
    shutil.move(folder, folder.with_name("old"))
    following.look()
    assert state(client)[:2] == (3, 0)
    assert "there is no folder" in state(client)[2]
    assert "the old one is kept" in capsys.readouterr().err
    load_more(database, ["x", "y", "z"])
    following.look()
    assert state(client) == (3, 1, None)
    assert paths_of(client) == {"x", "y", "z"}


def test_a_database_in_a_bucket_is_asked_seldom(monkeypatch):
    needs.package("starlette")
    from batnet_jax.modes.serve import following as module

    class Stub:
        sources = (Path("lancedb:gs://bucket/dir"), Path("photos"))
        kept = (True, False)

    asked, now = [], [0.0]
    monkeypatch.setattr(module, "whole_version", lambda source: asked.append(source) or len(asked))
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    following = module.Following(Stub())
    assert following._facts() == following._facts() == [1]
    now[0] += module.BUCKET_SECONDS
    assert following._facts() == [2]
    assert [str(source) for source in asked] == ["lancedb:gs:/bucket/dir"] * 2


def write_shards(folder, paths):
    """Write a folder of shards of two images, its manifest last."""
    folder.mkdir(exist_ok=True)
    plan = shards.Plan("f" * 32, 3, len(paths), "d" * 32, 2, False)
    shards.write_plan(folder, plan)
    features = np.resize(EYE, (len(paths), 3))
    for number in range(plan.shards):
        rows = plan.rows(number)
        own = features[rows]
        write_parquet(folder / shards.name_of(number), [own], shape=own.shape, paths=paths[rows],
                      fingerprint=plan.fingerprint, shard=plan.mark(number))  # fmt: skip
    found = [shards.read_shard(folder, plan, number) for number in range(plan.shards)]
    shards.write_manifest(folder, plan, found)


@pytest.mark.parametrize("way", ["in place", "moved", "link"])
def test_a_folder_of_shards_that_is_replaced(follow, tmp_path, way, capsys):
    folder = tmp_path / "shards"
    first = tmp_path / "first" if way == "link" else folder
    write_shards(first, ["a", "b", "c"])
    if way == "link":
        folder.symlink_to(first)
    following, client = follow(folder)
    (first / "_lock").touch()  # nothing new
    following.look()
    assert state(client) == (3, 0, None)
    if way == "in place":
        (folder / shards.MANIFEST).unlink()
        following.look()
        assert "is not whole" in state(client)[2]
        write_shards(folder, ["x", "y", "z", "w"])
    else:
        write_shards(tmp_path / "second", ["x", "y", "z", "w"])
        if way == "moved":
            folder.rename(tmp_path / "old")
            following.look()
            assert state(client)[:2] == (3, 0)  # the folder is gone, and its images stay
            (tmp_path / "second").rename(folder)
        else:
            (tmp_path / "new").symlink_to(tmp_path / "second")
            os.replace(tmp_path / "new", folder)
    following.look()
    assert state(client) == (4, 1, None)
    assert paths_of(client) == {"x", "y", "z", "w"}
    said = capsys.readouterr().err
    assert said.count("the gallery has changed: 4 images from now on") == 1


def test_one_of_several(follow, tmp_path):
    """A folder beside a file: the change of either is taken."""
    write_shards(tmp_path / "shards", ["s", "t"])
    np.save(tmp_path / "F.npy", EYE)
    following, client = follow(tmp_path / "shards", tmp_path / "F.npy")
    assert state(client)[0] == 5
    write_shards(tmp_path / "shards", ["u", "v", "w"])
    following.look()
    assert state(client) == (6, 1, None)
