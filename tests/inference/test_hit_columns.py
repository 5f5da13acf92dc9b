"""Hits carry the columns of their images, whatever keeps the gallery."""

import csv
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from support import needs
from support.mean_colour_model import COLOURS, Colours, config, png, use_colours, write_gallery

from batnet_jax.inference.feature_file import FeatureFile, open_features, write_features
from batnet_jax.inference.hit_columns import plain_rows, table_name, take_columns
from batnet_jax.inference.hits import Hit, RankedHits
from batnet_jax.modes import search
from batnet_jax.modes.ranked_files import to_bytes

NAMES = sorted(COLOURS)
COLUMNS = {
    "camera": np.array([3, 1, 4, 1, 5], np.int32),
    "time": np.array([0.5, np.nan, 2.0, np.inf, 1e300]),
    "who": np.array(["", "é \u202e", 'a "b",\nc', "7", "null"]),
    "day": np.array([True, False, True, True, False]),
    "rank": np.array([9, 8, 7, 6, 5]),
}
PLAIN = {
    "camera": [3, 1, 4, 1, 5],
    "time": [0.5, None, 2.0, None, 1e300],
    "who": COLUMNS["who"].tolist(),
    "day": [True, False, True, True, False],
    "rank": [9, 8, 7, 6, 5],
}


@pytest.fixture
def world(tmp_path, monkeypatch):
    use_colours(monkeypatch)
    write_gallery(tmp_path / "gallery")
    (tmp_path / "q.png").write_bytes(png((200, 8, 8)))
    return tmp_path


def make(kind, folder, columns=COLUMNS):
    """Write a gallery of a kind, and return what names it."""
    paths = [str(folder / "gallery" / name) for name in NAMES]
    features = Colours().embed(paths)
    path = folder / ("F.parquet" if kind == "parquet" else "F.npz")
    write_features(path, [features], shape=features.shape, paths=paths, columns=columns)
    if kind == "lance":
        needs.package("lancedb")
        from batnet_jax.inference.lance_load import load

        load(open_features(path), f"lancedb:{folder}/db")
        return Path(f"lancedb:{folder}/db")
    return path


@pytest.mark.parametrize("kind", ["npz", "parquet", "lance"])
def test_the_lists_of_the_command(world, kind):
    run = {"gallery": make(kind, world), "query": world / "q.png", "top": 9, "faiss": None}
    search.run(config(), world / "run", output=world / "F.json", **run)
    text = (world / "F.json").read_text()
    (one,) = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))[
        "results"
    ]
    assert len(one["hits"]) == len(NAMES)
    for hit in one["hits"]:
        i = NAMES.index(str(Path(hit["path"]).relative_to(world / "gallery")))
        assert hit["columns"] == {name: values[i] for name, values in PLAIN.items()}
    search.run(config(), world / "run", output=world / "F.csv", **run)
    with (world / "F.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    own = ["query", "rank", "score", "index", "path"]
    assert list(rows[0]) == [*own, "camera", "time", "who", "day", "columns.rank"]
    for row, hit in zip(rows, one["hits"], strict=True):
        assert int(row["rank"]) == hit["rank"]
        for name, value in hit["columns"].items():
            assert row[table_name(name)] == ("" if value is None else str(value))


@pytest.mark.parametrize("kind", ["npz", "lance"])
def test_without_columns_nothing_changes(world, kind):
    run = {"gallery": make(kind, world, {}), "query": world / "q.png", "top": 2, "faiss": None}
    search.run(config(), world / "run", output=world / "F.json", **run)
    (one,) = json.loads((world / "F.json").read_text())["results"]
    assert [list(hit) for hit in one["hits"]] == [["rank", "score", "index", "path"]] * 2


def test_several_galleries(world):
    """A column that a gallery lacks is null."""
    first = make("npz", world)
    second = world / "G.npz"
    write_features(second, [np.eye(3, dtype=np.float32)], shape=(3, 3), paths=["a", "b", "c"],
                   columns={"floor": np.array([1, 2, 3])})  # fmt: skip
    search.run(config(), world / "run", gallery=Path(f"{first},{second}"), query=world / "q.png",
               top=9, faiss=None, output=world / "F.json")  # fmt: skip
    (one,) = json.loads((world / "F.json").read_text())["results"]
    for hit in one["hits"]:
        columns = hit["columns"]
        if hit["gallery"] == str(second):
            assert columns == {"camera": None, "time": None, "who": "", "day": None, "rank": None,
                               "floor": hit["row"] + 1}  # fmt: skip
        else:
            assert (columns["camera"], columns["floor"]) == (PLAIN["camera"][hit["row"]], None)


def test_served_hits(world):
    needs.package("starlette")
    needs.package("httpx2")
    from starlette.testclient import TestClient

    from batnet_jax.inference.search import Searcher
    from batnet_jax.modes.serve.access import HostNames
    from batnet_jax.modes.serve.app import make_app

    odd = COLUMNS | {"who": np.array(["\ud800", "\udcff", "<b>", "", "x"])}
    searcher = Searcher(config(), world / "run", make("npz", world))
    searcher.gallery = searcher.gallery._replace(columns=odd)
    client = TestClient(make_app(searcher, HostNames("127.0.0.1")), base_url="http://localhost")
    answer = client.get("/gallery/4/similar?top=9")
    assert answer.status_code == 200
    hits = {hit["index"]: hit["columns"] for hit in answer.json()["hits"]}
    assert [hits[i]["who"] for i in range(4)] == ["?", "?", "<b>", ""]
    assert [hits[i]["time"] for i in range(4)] == PLAIN["time"][:4]


def ranked(columns=COLUMNS):
    """Return two lists, of two hits and of one, and an empty one between them."""
    lists = [np.array([2, 0]), np.array([], int), np.array([1])]
    gallery = FeatureFile(np.zeros((5, 2)), NAMES, None, columns)
    scores = [np.ones(len(one), np.float32) for one in lists]
    kept = take_columns(gallery, np.concatenate(lists))
    return RankedHits(["q", "r", "s"], lists, scores, NAMES, None, kept)


def test_hits_in_python():
    found = ranked()
    first, second = found[0]
    assert (first.rank, first.path) == (1, NAMES[2])
    assert first.columns == {name: values[2] for name, values in PLAIN.items()}
    assert second.columns["who"] == PLAIN["who"][0]
    assert found[1] == []
    assert found[-1][0].columns == found[2][0].columns == {n: v[1] for n, v in PLAIN.items()}
    assert [hit.columns["camera"] for hits in found[0:3] for hit in hits] == [4, 3, 1]
    json.dumps([hit.columns for hits in found for hit in hits], allow_nan=False)
    rank, score, index, path = first  # hits stay tuples of four
    assert first == Hit(rank, score, index, path)
    assert pickle.loads(pickle.dumps(first)).columns == first.columns
    assert Hit(1, 0.5, 0, "a").columns == {}
    with pytest.raises(IndexError):
        found[3]


def test_a_table_keeps_the_types():
    needs.package("pandas")
    table = ranked().to_pandas()
    own = ["query", "rank", "score", "index", "path"]
    assert list(table) == [*own, "camera", "time", "who", "day", "columns.rank"]
    assert table["query"].tolist() == ["q", "q", "s"]
    assert table["camera"].tolist() == [4, 3, 1]
    assert table["camera"].dtype == np.int32
    assert table["columns.rank"].tolist() == [7, 9, 8]
    assert table["time"].tolist()[:2] == [2.0, 0.5]
    assert math.isnan(table["time"][2])
    empty = RankedHits(["q"], [np.array([], int)], [np.array([])], NAMES, None,
                       {"camera": np.array([], np.int32)}).to_pandas()  # fmt: skip
    assert (len(empty), list(empty)) == (0, [*own, "camera"])


def test_plain_values():
    """Floats keep the digits of their type, and integers all of theirs."""
    columns = {
        "small": np.array([0.1, np.nan, -np.inf], np.float32),
        "half": np.array([0.1, 65504, 0], np.float16),
        "large": np.array([2**63, 0, 2**64 - 1], np.uint64),
    }
    rows = plain_rows(columns, 3)
    assert [row["small"] for row in rows] == [0.1, None, None]
    assert [np.float16(row["half"]) for row in rows] == [np.float16(0.1), 65504, 0]
    assert [row["large"] for row in rows] == [2**63, 0, 2**64 - 1]
    assert {type(value) for row in rows for value in row.values()} == {float, int, type(None)}
    assert plain_rows({}, 2) == [{}, {}]


def test_names_in_tables_are_stable_and_differ():
    assert [table_name(n) for n in ("camera", "path", "query", "gallery", "columns.path")] == [
        "camera", "columns.path", "columns.query", "columns.gallery", "columns.columns.path",
    ]  # fmt: skip
    hit = {"rank": 1, "score": 1.0, "index": 0, "path": "a"}
    one = {"query": "q", "hits": [hit | {"columns": {"score": "mine", "columns.score": 2}}]}
    found = to_bytes(Path("F.csv"), {}, [one, {"query": "r", "hits": []}]).decode().splitlines()
    assert found[0] == "query,rank,score,index,path,columns.score,columns.columns.score"
    assert found[1:] == ["q,1,1.0,0,a,mine,2", "r,,,,,,"]
