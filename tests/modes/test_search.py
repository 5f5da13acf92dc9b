"""The mode `search`: ranked lists, their JSON file, the index for faiss."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from support import needs
from support.mean_colour_model import COLOURS, Colours, config, png, use_colours, write_gallery

from batnet_jax.errors import UserError
from batnet_jax.inference import index_file
from batnet_jax.inference.feature_file import write_features
from batnet_jax.modes import search
from batnet_jax.retrieval import top_k

ORDER = ["blue <b>.png", "deep/dark red.png", "deep/green.png", "grey.png", "red.png"]


@pytest.fixture
def world(tmp_path, monkeypatch):
    use_colours(monkeypatch)
    write_gallery(tmp_path / "gallery")
    (tmp_path / "q.png").write_bytes(png((200, 8, 8)))
    return tmp_path


def run(folder, **changes):
    arguments = {
        "gallery": folder / "gallery", "query": folder / "q.png",
        "top": 3, "output": None, "faiss": None,
    }  # fmt: skip
    search.run(config(), folder / "run", **(arguments | changes))


def expected():
    """Return the cosines with the query's colour in float64, greatest first."""
    query = np.array([200, 8, 8]) / np.linalg.norm([200, 8, 8])
    cosines = {n: np.dot(query, c) / np.linalg.norm(c) for n, c in COLOURS.items()}
    return sorted(cosines.items(), key=lambda item: -item[1])


def test_ranked_list(world, capsys):
    run(world, output=world / "out" / "F.json")
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    wanted = expected()[:3]
    assert rows[0] == [str(world / "q.png")]
    assert [int(rank) for rank, _, _ in rows[1:4]] == [1, 2, 3]
    assert [path for *_, path in rows[1:4]] == [str(world / "gallery" / n) for n, _ in wanted]
    assert [float(s) for _, s, _ in rows[1:4]] == pytest.approx([s for _, s in wanted], abs=1e-4)
    assert rows[4] == ["written:", str(world / "out" / "F.json")]
    saved = json.loads((world / "out" / "F.json").read_text())
    assert (saved["step"], len(saved["results"])) == (5, 1)
    hits = saved["results"][0]["hits"]
    assert [h["path"] for h in hits] == [str(world / "gallery" / n) for n, _ in wanted]
    assert [h["index"] for h in hits] == [ORDER.index(n) for n, _ in wanted]
    assert [h["score"] for h in hits] == pytest.approx([s for _, s in wanted], abs=1e-6)
    assert [p.name for p in (world / "out").iterdir()] == ["F.json"]


def test_a_feature_file_and_its_folder_give_the_same_ranks(world, capsys):
    run(world, top=99)
    from_folder = capsys.readouterr().out
    assert len(from_folder.splitlines()) == 1 + len(COLOURS)
    paths = [str(world / "gallery" / name) for name in ORDER]
    features = Colours().embed(paths)
    write_features(world / "F.npz", [features], shape=features.shape, paths=paths)
    run(world, top=99, gallery=world / "F.npz")
    assert capsys.readouterr().out == from_folder
    np.save(world / "F.npy", features)
    run(world, top=1, gallery=world / "F.npy")
    assert capsys.readouterr().out.endswith("row 4\n")


def test_several_queries(world, capsys):
    run(world, query=world / "gallery", top=1, keep_own=True)
    rows = capsys.readouterr().out.splitlines()
    assert rows[::2] == [str(world / "gallery" / name) for name in ORDER]
    assert [row.split(maxsplit=2)[2] for row in rows[1::2]] == rows[
        ::2
    ]  # each image finds itself first


@pytest.mark.parametrize("form", ["folder", "file", "links"])
def test_a_query_of_the_gallery_does_not_find_itself(world, monkeypatch, form):
    """By whatever path: from another folder, relative, or over a link."""
    gallery = world / "gallery"
    if form == "file":
        paths = [str(gallery / "." / "deep" / ".." / name) for name in ORDER]
        features = Colours().embed(paths)
        write_features(world / "F.npz", [features], shape=features.shape, paths=paths)
        gallery = world / "F.npz"
    if form == "links":
        (world / "links").symlink_to(world / "gallery")
        (world / "one.png").symlink_to(world / "gallery" / "red.png")
        (world / "list.txt").write_text("one.png\nlinks/deep/green.png\nq.png\n")
    monkeypatch.chdir(world)
    query = world / "list.txt" if form == "links" else Path("gallery")
    run(world, query=query, gallery=gallery, top=99, output=world / "F.json")
    results = json.loads((world / "F.json").read_text())["results"]
    own = ["red.png", "deep/green.png", None] if form == "links" else ORDER
    for one, name in zip(results, own, strict=True):
        indices = [hit["index"] for hit in one["hits"]]
        assert sorted(indices) == [i for i in range(5) if ORDER[i] != name]
        assert [hit["rank"] for hit in one["hits"]] == list(range(1, len(indices) + 1))


def test_mistakes(world):
    np.save(world / "wide.npy", np.ones((4, 7), np.float32))
    cases = {
        "7 dimensions, and the model's have 3": {"gallery": world / "wide.npy"},
        "does not exist": {"query": world / "no.png"},
        "needs --query": {"query": None},
        "cannot be read": {"gallery": world / "no.npz"},
    }
    for message, changes in cases.items():
        with pytest.raises(UserError, match=message):
            run(world, **changes)


def test_without_faiss(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install 'batnet-jax\[faiss\]'"):
        run(world, faiss=world / "F.index")


def test_faiss_finds_the_same(world, capsys, monkeypatch):
    """The index alone needs no model; faiss ranks as `top_k` does."""
    faiss = needs.package("faiss")
    monkeypatch.setattr(index_file, "ROWS_AT_ONCE", 64)
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((500, 24)) * rng.uniform(0.1, 9, (500, 1))
    query = rng.standard_normal((20, 24)).astype(np.float32)
    np.save(world / "F.npy", gallery.astype(np.float32))
    run(world, gallery=world / "F.npy", query=None, faiss=world / "F.index")
    assert "500 vectors" in capsys.readouterr().out
    index = faiss.read_index(str(world / "F.index"))
    assert (index.ntotal, index.d, index.metric_type) == (500, 24, faiss.METRIC_INNER_PRODUCT)
    ours = top_k(query, gallery.astype(np.float32), 10)
    unit = query / np.linalg.norm(query, axis=1, keepdims=True)
    scores, indices = index.search(unit, 10)
    np.testing.assert_array_equal(indices, ours[0])
    np.testing.assert_allclose(scores, ours[1], atol=1e-6)  # of float32
    assert not list(Path(world).glob("*.partial"))


def test_csv_and_json_lines(world, capsys):
    odd = world / 'a, "b"\n\u00e9.png'
    odd.write_bytes(png((9, 200, 9)))
    (world / "gallery" / "x,y.png").write_bytes(png((9, 201, 9)))
    (world / "list").mkdir()
    for name in ("q.png", odd.name):
        (world / name).rename(world / "list" / name)
    run(world, query=world / "list", output=world / "F.json", top=2)
    results = json.loads((world / "F.json").read_text())["results"]
    run(world, query=world / "list", output=world / "F.csv", top=2)
    assert capsys.readouterr().out.endswith(f"written: {world / 'F.csv'}\n")
    with (world / "F.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = [{"query": one["query"], **hit} for one in results for hit in one["hits"]]
    assert list(rows[0]) == ["query", "rank", "score", "index", "path"]
    assert rows == [{name: str(value) for name, value in row.items()} for row in wanted]
    run(world, query=world / "list", output=world / "F.JSONL", top=2)
    lines = [json.loads(line) for line in (world / "F.JSONL").read_text().splitlines()]
    source = {"gallery": str(world / "gallery"), "model": str(world / "run"), "step": 5}
    assert lines == [one | source for one in results]


def test_another_suffix_is_refused_before_the_work(world, monkeypatch):
    monkeypatch.setattr(search, "Searcher", None)
    for name in ("F.txt", "F", "F.npz"):
        with pytest.raises(UserError, match=r"written as \.json, \.jsonl, \.csv"):
            run(world, output=world / name)


def test_a_filter_is_applied_before_ranking(world, capsys):
    """By columns of the file; two images pass, and both are listed."""
    features = Colours().embed([str(world / "gallery" / name) for name in COLOURS])
    columns = {"camera": np.array([1, 2, 1, 3, 2])}
    write_features(
        world / "F.npz", [features], shape=features.shape, paths=list(COLOURS), columns=columns
    )
    common = {"gallery": world / "F.npz", "top": 9, "output": world / "F.json"}
    run(world, where="camera=2 or path like '*<b>*'", **common)
    saved = json.loads((world / "F.json").read_text())
    assert saved["where"] == "camera=2 or path like '*<b>*'"
    (one,) = saved["results"]
    passing = ["deep/dark red.png", "blue <b>.png", "grey.png"]
    wanted = [(name, cosine) for name, cosine in expected() if name in passing]
    assert [hit["path"] for hit in one["hits"]] == [name for name, _ in wanted]
    assert [list(COLOURS)[hit["index"]] for hit in one["hits"]] == [name for name, _ in wanted]
    assert [hit["score"] for hit in one["hits"]] == pytest.approx([s for _, s in wanted], abs=1e-6)
    run(world, where="camera>3", accept="0.5", **common)
    assert json.loads((world / "F.json").read_text())["results"][0]["hits"] == []
    assert "no image is left to search" in capsys.readouterr().out
    with pytest.raises(UserError, match="no column 'cam': it has camera, path"):
        run(world, where="cam=3", **common)
