"""Named people are shown by their names: in figures, pictures, the report and searches."""

import csv
import json

import cv2
import numpy as np
import pytest
from support.mean_colour_model import config as plain_config
from support.mean_colour_model import png, use_colours
from support.pages import read_page
from support.stub_training import fake_embed, tiny_config
from support.tiny_datasets import write_tree

from batnet_jax.data.run_data import open_tests
from batnet_jax.evaluation import evaluate
from batnet_jax.evaluation.evaluated_run import read_run
from batnet_jax.modes import report_exhibits, search
from batnet_jax.report.page import write_page
from batnet_jax.report.ranked_list import Person, who
from batnet_jax.report.thumbnails import Thumbnails
from batnet_jax.workdir.people import name_of, read_names

PEOPLE = ("Ann <b>", "Bob Lee", "Zo\u00eb")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Evaluate mean colours on three named people; return the config, the test and the workdir."""
    folder = tmp_path_factory.mktemp("named")
    rng = np.random.default_rng(0)
    images = {
        f"{split}/{name}/{k}.png": cv2.imencode(".png", rng.integers(0, 256, (8, 4, 3)))[
            1
        ].tobytes()
        for split in ("train", "query", "gallery")
        for name in PEOPLE
        for k in range(2)
    }
    write_tree(folder / "mine", images)
    config = tiny_config(folder)
    config.data.dataset, config.data.variant = "folder", ""
    config.data.manual_dir = str(folder / "mine")
    config.eval.breakdown = True
    (test,) = open_tests(config)
    embed = fake_embed(None, {"params": {"w": np.ones(1)}})
    evaluate.run_tests(config, [test], embed, step=3, workdir=folder)
    return config, test, folder


def test_results_name_people(evaluated):
    _, test, folder = evaluated
    result = json.loads((folder / "eval" / "step_3.json").read_text())
    assert [own["name"] for own in result["per_identity"].values()] == list(PEOPLE)
    run = read_run(folder)
    assert run.queries.header["names"] == {str(pid): name for pid, name in enumerate(PEOPLE)}
    assert read_names(folder) == set(PEOPLE)
    assert (test.name_of(1), test.name_of(-1), test.name_of(3)) == ("Bob Lee", "", "")


def test_pictures_and_the_report_name_people(evaluated, tmp_path, monkeypatch):
    config, test, _ = evaluated
    embed = fake_embed(None, {"params": {"w": np.ones(1)}})
    said = []
    monkeypatch.setattr(evaluate, "draw_ranked_lists", lambda file, lists, **_: said.extend(lists))
    evaluate.run_tests(config, [test], embed, step=4, workdir=tmp_path)
    people = [person for one in said for person in (one.query, *one.gallery)]
    assert {who(person) for person in people} == set(PEOPLE)
    thumbnails = Thumbnails()
    reported = report_exhibits.report_test(config, test, embed, thumbnails, step=3)
    write_page(
        tmp_path / "page.html", title="t", facts={}, sections=reported.sections,
        styles=thumbnails.styles(),
    )  # fmt: skip
    text = read_page(tmp_path / "page.html").text
    html = (tmp_path / "page.html").read_text()
    for name in PEOPLE:
        assert f"Identity {name}" in text
    assert "identity 1" not in text.lower()
    assert '<option value="Ann &lt;b&gt;">' in html
    assert 'data-pid="Bob Lee"' in html


def test_names_in_pictures_fit_and_can_be_drawn():
    image = np.zeros((4, 4, 3), np.uint8)
    assert who(Person(image, 7, None)) == "pid 7"
    assert who(Person(image, 7, 2)) == "pid 7  cam 2"
    assert who(Person(image, 7, 2, "ann")) == "ann  cam 2"
    assert who(Person(image, 7, 2, "\u674e\u56db")) == "pid 7  cam 2"  # not in the font
    cut = who(Person(image, 7, 2, "a very long name of a person"), 104)
    assert cut.startswith("a very")
    assert cut.endswith("...  cam 2")


def search_in(folder, workdir, **changes):
    arguments = {
        "gallery": folder / "people", "query": folder / "q.png", "top": 9,
        "output": folder / "F.json", "faiss": None,
    }  # fmt: skip
    search.run(plain_config(), workdir, **(arguments | changes))


def test_search_names_people(evaluated, tmp_path, monkeypatch, capsys):
    _, _, workdir = evaluated
    use_colours(monkeypatch)
    colours = {
        "Ann <b>/cam 1/x.png": (200, 0, 0),
        "Bob Lee/y.png": (150, 90, 0),
        "Eve/z.png": (9, 9, 9),
    }
    write_tree(tmp_path / "people", {name: png(colour) for name, colour in colours.items()})
    (tmp_path / "q.png").write_bytes(png((200, 1, 0)))
    search_in(tmp_path, workdir)
    hits = json.loads((tmp_path / "F.json").read_text())["results"][0]["hits"]
    assert [hit["name"] for hit in hits] == ["Ann <b>", "Bob Lee", None]
    rows = capsys.readouterr().out.splitlines()[1:4]
    assert [row[16:23].strip() for row in rows] == ["Ann <b>", "Bob Lee", "-"]
    search_in(tmp_path, workdir, output=tmp_path / "F.csv")
    with (tmp_path / "F.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["Ann <b>", "Bob Lee", ""]
    search_in(tmp_path, tmp_path)  # a run that knows no names
    hits = json.loads((tmp_path / "F.json").read_text())["results"][0]["hits"]
    assert all("name" not in hit for hit in hits)


def test_the_innermost_known_folder_is_the_person(tmp_path):
    names = {"ann", "bob"}
    for path, name in {
        "people/ann/1.jpg": "ann",
        "/data/bob/people/ann/cam1/1.jpg": "ann",
        "bob.jpg": None,
        "people/Ann/1.jpg": None,
        "ann/": "ann",
        "row 3": None,
        "": None,
    }.items():
        assert name_of(path, names) == name
    (tmp_path / "names.json").write_text("[1, {")
    (tmp_path / "labels.json").write_text('[{"label": 0, "name": "ann"}, {"label": 1, "name": ""}]')
    assert read_names(tmp_path) == {"ann"}
