"""`search` with several images as one query, and with the least score to accept."""

import csv
import json
import re

import numpy as np
import pytest
from support.mean_colour_model import Colours, config, png, use_colours, write_gallery

from batnet_jax.errors import UserError
from batnet_jax.modes import search
from batnet_jax.modes.accept import Wanted, parse_accept

ORDER = ["blue <b>.png", "deep/dark red.png", "deep/green.png", "grey.png", "red.png"]
POINTS = [
    {"wanted_false_accept_rate": rate, "threshold": score, "resolved": rate > 1e-3}
    for rate, score in ((0.1, 0.5), (0.01, 0.8), (0.001, 0.95))
]


@pytest.fixture
def world(tmp_path, monkeypatch):
    use_colours(monkeypatch)
    write_gallery(tmp_path / "gallery")
    (tmp_path / "person" / "more").mkdir(parents=True)
    (tmp_path / "person" / "1.png").write_bytes(png((200, 8, 8)))
    (tmp_path / "person" / "more" / "2.png").write_bytes(png((8, 8, 100)))
    (tmp_path / "run" / "eval").mkdir(parents=True)
    result = {"verification": {"operating_points": POINTS}}
    (tmp_path / "run" / "eval" / "step_5.json").write_text(json.dumps(result))
    return tmp_path


def run(folder, **changes):
    """Search; return the contents of the JSON file."""
    arguments = {
        "gallery": folder / "gallery", "query": folder / "person" / "1.png",
        "top": 9, "output": folder / "F.json", "faiss": None,
    }  # fmt: skip
    search.run(config(), folder / "run", **(arguments | changes))
    return json.loads((folder / "F.json").read_text())


@pytest.mark.parametrize(("pool", "function"), [("mean", np.mean), ("max", np.max)])
def test_images_of_one_person_are_one_query(world, capsys, pool, function):
    (one,) = run(world, query=world / "person", pool=pool)["results"]
    assert (one["query"], one["pooled"]) == (str(world / "person"), 2)
    assert capsys.readouterr().out.startswith(f"{world / 'person'} (2 images as one query)\n    1 ")
    query = function([[200.0, 8, 8], [8, 8, 100]], axis=0)
    gallery = Colours().embed([str(world / "gallery" / name) for name in ORDER])
    cosines = gallery @ query / np.linalg.norm(gallery, axis=1) / np.linalg.norm(query)
    assert [hit["index"] for hit in one["hits"]] == np.argsort(-cosines).tolist()
    scores = [hit["score"] for hit in one["hits"]]
    assert scores == pytest.approx(sorted(cosines, reverse=True), abs=1e-6)  # of float32


def test_no_image_of_a_pooled_query_finds_itself(world):
    (world / "list.txt").write_text("gallery/red.png\ngallery/deep/green.png\nperson/1.png\n")
    (one,) = run(world, query=world / "list.txt", pool="mean")["results"]
    assert sorted(hit["index"] for hit in one["hits"]) == [0, 1, 3]
    (one,) = run(world, query=world / "list.txt", pool="mean", keep_own=True)["results"]
    assert len(one["hits"]) == 5
    (one,) = run(world, query=world / "gallery", pool="mean")["results"]
    assert one["hits"] == []


def test_hits_below_the_score_are_left_out(world, capsys):
    query = world / "person" / "more" / "2.png"
    everything = run(world, query=query)["results"][0]["hits"]
    best = everything[0]["score"]
    found = run(world, query=query, accept="0.5")
    (one,) = found["results"]
    assert found["accept"] == 0.5
    assert one["hits"] == [hit for hit in everything if hit["score"] >= 0.5]
    assert (one["accepted"], one["best"]) == (len(one["hits"]), best)
    assert 0 < len(one["hits"]) < 5
    assert (
        run(world, query=query, accept=f"{best!r}")["results"][0]["accepted"] == 1
    )  # as good as is enough
    capsys.readouterr()
    (one,) = run(world, query=query, accept="1")["results"]
    assert (one["accepted"], one["hits"], one["best"]) == (0, [], best)
    row = capsys.readouterr().out.splitlines()[1]
    assert (
        row
        == f"    -  no image is similar enough: the best scores {best:.4f}, and 1.0000 is needed"
    )


@pytest.mark.parametrize("text", ["far=0.01", "FAR: 1e-2", "1%", "far=1%"])
def test_a_false_accept_rate_is_looked_up(world, text):
    found = run(world, accept=text)
    assert found["accept"] == 0.8
    assert all(hit["score"] >= 0.8 for hit in found["results"][0]["hits"])


def test_a_rate_of_single_images_is_no_rate_of_pooled_ones(world, capsys):
    for query, accept, told in (
        ("person", "far=0.1", True),
        ("person", "score=0.5", False),
        ("person/1.png", "far=0.1", False),
    ):
        run(world, query=world / query, pool="mean", accept=accept)
        assert ("measured for queries of one image" in capsys.readouterr().err) == told


def test_rates_that_are_not_known(world, capsys):
    with pytest.raises(UserError, match=r"0\.02 was not measured \(nearest: 0\.01 and"):
        run(world, accept="2%")
    for text, near in (("far=0.5", "0.1"), ("far=1e-9", "0.001"), ("far=0.05", "0.01 and 0.1")):
        wanted = re.escape(f"(nearest: {near}): give one of 0.001, 0.01, 0.1, or a score") + "$"
        with pytest.raises(UserError, match=wanted):
            run(world, accept=text)
    assert run(world, accept="far=0.001")["accept"] == 0.95
    assert (
        "too few pairs of two people to measure the rate 0.001, fewer than 1,000"
        in capsys.readouterr().err
    )
    path = world / "run" / "eval" / "step_5.json"
    path.write_text("{}")
    with pytest.raises(UserError, match=r"step 5 of .* has no thresholds: .*eval\.verification"):
        run(world, accept="1%")
    path.write_text("[")
    with pytest.raises(UserError, match="is damaged: evaluate the step again"):
        run(world, accept="1%")
    path.unlink()
    with pytest.raises(UserError, match="has no thresholds"):
        run(world, accept="1%")
    assert run(world, accept="score=0.05")["accept"] == 0.05  # a score needs no evaluation


def test_a_false_alarm_rate_is_looked_up(world, capsys):
    path = world / "run" / "eval" / "step_5.json"
    points = [
        {"wanted_false_alarm_rate": rate, "threshold": score, "resolved": rate > 0.01}
        for rate, score in ((0.1, 0.6), (0.01, 0.9))
    ]
    result = {"operating_points": points, "num_gallery": 5}
    path.write_text(json.dumps({"open_set": result}))
    assert run(world, accept="alarm=0.1")["accept"] == 0.6
    assert capsys.readouterr().err == ""
    assert run(world, accept="Alarm: 1%")["accept"] == 0.9
    assert "fewer than 100 queries without mates, too few to measure the rate 0.01" in (
        capsys.readouterr().err
    )
    path.write_text(json.dumps({"open_set": result | {"num_gallery": 4}}))
    run(world, accept="alarm=0.1")
    assert "measured with 4 gallery images; among 5 more queries raise an alarm" in (
        capsys.readouterr().err
    )
    run(world, accept="alarm=0.1", where="path like '*re*'")  # no more images than 4
    assert capsys.readouterr().err == ""
    with pytest.raises(
        UserError, match=r"0\.2 was not measured \(nearest: 0\.1\): give one of 0\.01, 0\.1,"
    ):
        run(world, accept="alarm=0.2")
    for text in ({}, {"verification": {"operating_points": POINTS}}):
        path.write_text(json.dumps(text))
        with pytest.raises(UserError, match=r"no false alarm rates: .*eval\.open_set=True"):
            run(world, accept="alarm=0.1")
    for odd in (7, {"operating_points": [{}]}, result | {"num_gallery": "x"}):
        path.write_text(json.dumps({"open_set": odd}))
        with pytest.raises(UserError, match="is damaged: evaluate the step again"):
            run(world, accept="alarm=0.1")


def test_the_forms():
    for text, wanted in {
        "0.62": (0.62, None), "-0.5": (-0.5, None), "0": (0, None), "1": (1, None),
        "score=0.01": (0.01, None), " Score : .7 ": (0.7, None), "far=1e-3": (None, 1e-3),
        "0.1%": (None, 1e-3), "far=10%": (None, 0.1), "alarm=0.01": (None, None, 0.01),
    }.items():  # fmt: skip
        assert parse_accept(text) == Wanted(*wanted), text
    for text, message in {
        "0.01": "may be a score or a false accept rate: give score=0.01 or far=0.01",
        "1e-3": "give score=1e-3 or far=1e-3",
        "1.5": "a score is between -1 and 1",
        "nan": "a score is between",
        "far=0": "a rate is between 0 and 1",
        "100%": "a rate is between 0 and 1",
        "far=nan": "a rate is between 0 and 1",
        "high": "is not a number",
        "": "is not a number",
        "far=": "is not a number",
        "alarm=0": "a rate is between 0 and 1",
        "alarm=": "is not a number",
    }.items():
        with pytest.raises(UserError) as raised:
            parse_accept(text)
        assert message in str(raised.value), text


def test_tables_of_accepted_hits(world):
    """A query without a hit has a row, too."""
    (world / "person" / "grey.png").write_bytes(png((200, 190, 8)))
    results = run(world, query=world / "person", accept="0.99")["results"]
    assert 0 in [one["accepted"] for one in results] != [0] * 3
    search.run(
        config(), world / "run", gallery=world / "gallery", query=world / "person", top=9,
        output=world / "F.csv", faiss=None, accept="0.99",
    )  # fmt: skip
    with (world / "F.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = [(one["query"], one["accepted"], h) for one in results for h in one["hits"] or [{}]]
    assert [(row["query"], int(row["accepted"])) for row in rows] == [own[:2] for own in wanted]
    for row, (_, _, hit) in zip(rows, wanted, strict=True):
        assert row["path"] == hit.get("path", "")
