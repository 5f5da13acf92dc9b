"""A gallery's file that is cut off, damaged or replaced while the page is served."""

import os
import shutil

import numpy as np
import pytest
from support import needs
from support.mean_colour_model import COLOURS, config, png, use_colours, write_gallery

from batnet_jax.inference import block_sums, feature_file
from batnet_jax.inference.search import Searcher

RED = png((200, 8, 8))
IMAGE = {"Content-Type": "image/png"}


@pytest.fixture(params=["npz", "npy"])
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
@pytest.mark.parametrize("size", [0, 150])
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
    place = content.index(b"NUMPY") + 130
    content[place] ^= 1
    gallery.write_bytes(content)
    answer = ask(client)
    if gallery.suffix == ".npy":  # has no checksum
        assert answer.status_code == 200
    else:
        assert answer.status_code == 503
        assert "do not have their checksum: embed the images again" in capsys.readouterr().err


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
