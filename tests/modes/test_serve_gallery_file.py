"""A gallery's file that is cut off, damaged or replaced while the page is served."""

import os
import shutil
import threading
import time

import numpy as np
import pytest
from support import needs
from support.mean_colour_model import COLOURS, config, png, use_colours, write_gallery

from batnet_jax.inference import block_sums, feature_file
from batnet_jax.inference.search import Searcher

RED = png((200, 8, 8))
IMAGE = {"Content-Type": "image/png"}


@pytest.fixture(params=["npz", "npy", "parquet"])
def gallery(request, tmp_path, monkeypatch):
    """Return a feature file that is too large to be kept in memory."""

    use_colours(monkeypatch)
    monkeypatch.setattr(feature_file, "IN_MEMORY", 0)
    monkeypatch.setattr(block_sums, "_LEAST", 64)
    images = Searcher(config(), tmp_path / "run", write_gallery(tmp_path / "gallery")).gallery
    features = np.asarray(images.features)
    path = tmp_path / f"F.{request.param}"
    if request.param == "npy":
        np.save(path, features)
    else:
        feature_file.write_features(
            path, [features], shape=features.shape, paths=images.paths, fingerprint=None
        )
    return path


@pytest.fixture
def client(gallery, tmp_path):
    needs.package("starlette")
    needs.package("httpx2")
    return make_client(gallery, tmp_path)


def make_client(gallery, tmp_path):
    from starlette.testclient import TestClient

    from batnet_jax.modes.serve.access import HostNames
    from batnet_jax.modes.serve.app import make_app

    searcher = Searcher(config(), tmp_path / "run", gallery)
    return TestClient(make_app(searcher, HostNames("127.0.0.1")), base_url="http://localhost")


def ask(client, top=3, **parameters):
    params = {"top": top, **parameters}
    return client.post("/search", params=params, content=RED, headers=IMAGE)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("size", [0, 60])
def test_a_file_that_is_cut_off_ends_no_server(client, gallery, size, capsys):
    """A mapped file would end the process by SIGBUS."""
    whole = gallery.read_bytes()
    os.truncate(gallery, size)
    for _ in range(2):
        answer = ask(client)
        assert (answer.status_code, answer.json()) == (503, {"error": "the gallery cannot be read"})
    error = f"error: '{gallery}' has been cut off while it was in use: embed the images again\n"
    assert capsys.readouterr().err.endswith(error * 2)
    gallery.write_bytes(whole)  # into the same file
    assert ask(client).json()["gallery"] == len(COLOURS)


def test_a_file_that_is_replaced_is_still_searched(client, gallery):
    before = ask(client).json()["hits"]
    shutil.copy(gallery, gallery.with_name("new"))
    os.truncate(gallery.with_name("new"), 0)
    gallery.with_name("new").replace(gallery)
    assert ask(client).json()["hits"] == before


def test_a_damaged_block_is_noticed(client, gallery, capsys):
    content = bytearray(gallery.read_bytes())
    place = 60 if gallery.suffix == ".parquet" else content.index(b"NUMPY") + 130
    content[place] ^= 1
    gallery.write_bytes(content)
    answer = ask(client)
    if gallery.suffix == ".npy":  # has no checksum
        assert answer.status_code == 200
    else:
        assert answer.status_code == 503
        assert "do not match their checksum: embed the images again" in capsys.readouterr().err


def test_a_filter_of_columns(client, gallery, tmp_path):
    """In both searches; a wrong filter is answered in one line."""
    if gallery.suffix == ".npy":
        assert ask(client, where="camera=1").json() == {
            "error": "where: the gallery has no column 'camera': it has none"
        }
        return
    held = feature_file.open_features(gallery)
    columns = {"camera": np.array([1, 2, 1, 2, 1])}
    feature_file.write_features(
        gallery, [held.features[:]], shape=held.features.shape, paths=held.paths, columns=columns
    )
    filtered = make_client(gallery, tmp_path)
    everything = ask(filtered, top=5).json()["hits"]
    for camera in (1, 2):
        found = ask(filtered, top=5, where=f"camera={camera}").json()
        wanted = [hit for hit in everything if columns["camera"][hit["index"]] == camera]
        assert [hit["index"] for hit in found["hits"]] == [hit["index"] for hit in wanted]
        assert found["gallery"] == 5
    similar = filtered.get("/gallery/0/similar", params={"where": "camera=1"}).json()["hits"]
    assert sorted(hit["index"] for hit in similar) == [2, 4]
    assert ask(filtered, where="camera=9").json()["hits"] == []
    answer = ask(filtered, where="camera=\n")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("where: the filter cannot be read: a value is missing")


@pytest.fixture
def followed(gallery, tmp_path):
    """A gallery's file, what follows it, and a client."""
    needs.package("starlette")
    needs.package("httpx2")
    from starlette.testclient import TestClient

    from batnet_jax.modes.serve.access import HostNames
    from batnet_jax.modes.serve.app import make_app
    from batnet_jax.modes.serve.following import Following

    following = Following(Searcher(config(), tmp_path / "run", gallery))
    app = make_app(following, HostNames("127.0.0.1"))
    return gallery, following, TestClient(app, base_url="http://localhost")


def replace(path, features, fingerprint=None):
    """Write a new file, which takes the old one's place in one step."""
    if path.suffix == ".npy":
        np.save(path.with_name("new.npy"), features)
        path.with_name("new.npy").replace(path)
    else:
        paths = [f"new {i}.png" for i in range(len(features))]
        feature_file.write_features(
            path, [features], shape=features.shape, paths=paths, fingerprint=fingerprint
        )


def test_a_new_file_is_taken(followed, capsys):
    gallery, following, client = followed
    number = ask(client).json()["hits"][0]["index"]
    replace(gallery, np.eye(3, dtype=np.float32))
    following.look()
    assert "the gallery has changed: 3 images from now on\n" in capsys.readouterr().err
    found = ask(client).json()
    assert (found["gallery"], found["changes"]) == (3, 1)
    assert found["hits"][0]["index"] == 0
    health = client.get("/health").json()
    assert (health["gallery"], health["changes"], health["problem"]) == (3, 1, None)
    for url in (f"/gallery/{number}", f"/gallery/{number}/similar"):
        answer = client.get(url, params={"changes": 0})  # a page that shows the old list
        assert (answer.status_code, answer.json()) == (
            410, {"error": "the gallery has changed: search again"}
        )  # fmt: skip
    assert client.get("/gallery/1/similar", params={"changes": 1}).status_code == 200
    following.look()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", ["cut off", "a block", "another length", "no numbers", "gone"])
def test_a_new_file_that_is_no_gallery_is_named_and_the_old_one_stays(followed, capsys, damage):
    gallery, following, client = followed
    before = ask(client).json()["hits"]
    features = np.eye(3, 4 if damage == "another length" else 3, dtype=np.float32)
    features[1, 1] = np.nan if damage == "no numbers" else 1
    held = os.open(gallery, os.O_RDONLY)  # so that the new file has another number
    replace(gallery, features)
    if damage == "cut off":
        os.truncate(gallery, 100)
    elif damage == "a block" and gallery.suffix == ".npz":
        content = bytearray(gallery.read_bytes())
        content[content.index(b"NUMPY") + 140] ^= 1
        gallery.write_bytes(content)
    elif damage in ("gone", "a block"):
        gallery.unlink()
    following.look()
    error = capsys.readouterr().err
    assert error.startswith("warning: the gallery has changed, and the old one is kept: ")
    assert error.count("\n") == 1
    health = client.get("/health").json()
    assert error.endswith(f"{health['problem']}\n")
    assert (health["gallery"], health["changes"]) == (5, 0)
    assert ask(client).json()["hits"] == before
    following.look()
    assert capsys.readouterr().err == ""  # said once
    replace(gallery, np.eye(2, 3, dtype=np.float32))
    following.look()
    assert client.get("/health").json()["problem"] is None
    assert ask(client).json()["gallery"] == 2
    os.close(held)


def test_a_new_file_of_another_model_is_not_taken(followed, monkeypatch, capsys):
    from support.mean_colour_model import Colours

    gallery, following, client = followed
    if gallery.suffix == ".npy":
        pytest.skip("an .npy does not tell its model")
    monkeypatch.setattr(Colours, "fingerprint", "a" * 32, raising=False)
    replace(gallery, np.eye(3, dtype=np.float32), "b" * 32)
    following.look()
    assert "was embedded by another model" in client.get("/health").json()["problem"]
    replace(gallery, np.eye(3, dtype=np.float32), "a" * 32)
    following.look()
    assert ask(client).json()["gallery"] == 3


def test_a_request_that_has_begun_ends_on_the_old_gallery(followed):
    """And one that begins meanwhile asks the new one."""
    gallery, following, client = followed
    begun, go_on, answers = threading.Event(), threading.Event(), []
    old, find = following.current, following.current.search

    def search(*words):
        begun.set()
        assert go_on.wait(60)
        return find(*words)

    old.search = search
    asking = threading.Thread(target=lambda: answers.append(ask(client, top=9).json()))
    asking.start()
    assert begun.wait(60)
    replace(gallery, np.eye(3, dtype=np.float32))
    following.look()
    assert following.current is not old
    assert client.get("/gallery").json()["gallery"] == 3
    go_on.set()
    asking.join()
    (answer,) = answers
    assert (answer["gallery"], answer["changes"], len(answer["hits"])) == (5, 0, 5)
    del old.search


def test_files_are_looked_at_again_and_again(followed, monkeypatch):
    gallery, following, client = followed
    monkeypatch.setattr("batnet_jax.modes.serve.following.SECONDS", 0.01)
    following.start()
    replace(gallery, np.eye(3, dtype=np.float32))
    for _ in range(600):
        if ask(client).json()["gallery"] == 3:
            break
        time.sleep(0.05)
    following.stop()
    assert ask(client).json()["gallery"] == 3
