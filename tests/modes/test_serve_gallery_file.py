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
    from starlette.testclient import TestClient

    from batnet_jax.modes.serve.access import HostNames
    from batnet_jax.modes.serve.app import make_app

    searcher = Searcher(config(), tmp_path / "run", gallery)
    return TestClient(make_app(searcher, HostNames("127.0.0.1")), base_url="http://localhost")


def ask(client):
    return client.post("/search?top=3", content=RED, headers=IMAGE)


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
