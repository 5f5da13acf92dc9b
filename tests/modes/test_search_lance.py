"""A gallery in LanceDB, searched and served as its file is."""

import os

import numpy as np
import pytest
from support import needs
from support.mean_colour_model import COLOURS, Colours, config, png, use_colours, write_gallery

from batnet_jax.errors import UserError
from batnet_jax.inference.feature_file import open_features, write_features
from batnet_jax.inference.lance_load import load
from batnet_jax.inference.search import Searcher
from batnet_jax.modes import search

RED = png((200, 8, 8))


@pytest.fixture
def world(tmp_path, monkeypatch):
    needs.package("lancedb")
    use_colours(monkeypatch)
    folder = write_gallery(tmp_path / "gallery")
    paths = sorted(str(folder / name) for name in COLOURS)
    features = Colours().embed(paths)
    columns = {"camera": np.arange(len(paths))}
    write_features(
        tmp_path / "F.npz", [features], shape=features.shape, paths=paths, columns=columns
    )
    load(open_features(tmp_path / "F.npz"), f"lancedb:{tmp_path}/a,b")
    (tmp_path / "q.png").write_bytes(RED)
    return tmp_path


@pytest.mark.parametrize("more", [{}, {"where": "camera in (0, 4)"}, {"pool": "mean"}])
def test_the_lists_are_those_of_the_file(more, world, capsys):
    query = world / "gallery" if "pool" in more else world / "q.png"
    found = []
    for gallery in (world / "F.npz", f"lancedb:{world}/a,b"):
        arguments = {"gallery": gallery, "query": query, "top": 9, "output": None, "faiss": None}
        search.run(config(), world / "run", **arguments, **more)
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]


def test_a_query_s_own_file_is_left_out(world, capsys):
    gallery, query = f"lancedb:{world}/a,b", world / "gallery"
    arguments = {"gallery": gallery, "query": query, "top": 9, "output": None, "faiss": None}
    search.run(config(), world / "run", **arguments)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(COLOURS) * len(COLOURS)  # each query, and the others


def test_what_needs_the_features_is_refused(world):
    arguments = {"query": None, "top": 9, "output": None, "faiss": world / "F.index"}
    needs.package("faiss")
    with pytest.raises(UserError, match="needs the features that embed wrote, not a database"):
        search.run(config(), world / "run", gallery=f"lancedb:{world}/a,b", **arguments)


def test_it_is_served(world):
    needs.package("starlette")
    needs.package("httpx2")
    from pathlib import Path

    from starlette.testclient import TestClient

    from batnet_jax.modes.serve.access import HostNames
    from batnet_jax.modes.serve.app import make_app

    searcher = Searcher(config(), world / "run", Path(f"lancedb:{world}/a,b"))
    client = TestClient(make_app(searcher, HostNames("127.0.0.1")), base_url="http://localhost")
    image = {"Content-Type": "image/png"}
    hits = client.post("/search?top=2", content=RED, headers=image).json()["hits"]
    assert [os.path.basename(hit["path"]) for hit in hits] == ["red.png", "dark red.png"]
    number = hits[0]["index"]
    assert client.get(f"/gallery/{number}").headers["content-type"] == "image/jpeg"
    similar = client.get(f"/gallery/{number}/similar?top=9").json()["hits"]
    assert len(similar) == len(COLOURS) - 1
    assert [searcher.count(searcher.find_rows(w)) for w in (None, "camera > 2")] == [5, 2]
    samples = client.get("/gallery?samples=3").json()
    assert (samples["gallery"], len(samples["samples"])) == (len(COLOURS), 3)
    assert client.get(f"/gallery/{2**40}").status_code == 404
    found = client.post("/search?where=camera=0", content=RED, headers=image).json()["hits"]
    assert len(found) == 1
    assert client.post("/search?where=x=0", content=RED, headers=image).status_code == 400
