"""The mode `compare`: the text, the files, and the page of drawn runs."""

import json
import re

import pytest
from support.evaluated_runs import STEP, draw_ranks, write_evaluation, write_run
from support.pages import read_page
from support.run_main import call_main

from batnet_jax.evaluation import compare

# config_flags'
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six runs: three seeds of two settings."""
    folder = tmp_path_factory.mktemp("compare")
    for seed in range(3):
        write_run(folder / f"aia-{seed}", seed=seed, skill=0.65)
        plain = {"model.attention": "plain", "data.workers": 5}
        write_run(folder / f"plain-{seed}", seed=seed, settings=plain)
    return folder


def call(folder, names, *arguments):
    """Run the mode; return the status and stderr."""
    runs = ",".join(str(folder / name) for name in names)
    return call_main("--mode=compare", f"--runs={runs}", *arguments)


ALL = [f"{name}-{seed}" for name in ("aia", "plain") for seed in range(3)]


def test_text_page_and_json(folder, tmp_path, capsys):
    output = tmp_path / "out" / "found.json"
    status, stderr = call(folder, ALL, f"--workdir={tmp_path}", f"--output={output}")
    assert (status, stderr) == (0, "")
    text = capsys.readouterr().out
    found = json.loads(output.read_text())
    assert found == compare([folder / name for name in ALL])
    assert "people: 39 of 40 queries, gallery 300, AP: precision" in text
    assert "difference to aia-0, in percentage points; p is corrected for 5 runs" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    last = found["differences"][-1]
    assert f"{100 * last['mAP']['value']:+.1f}" in rows["plain-2"]
    assert re.search(r"aia-0, aia-1, aia-2 +3 +\d+\.\d ± \d\.\d", text)
    assert re.search(r"model\.attention +aia +aia-0, aia-1, aia-2\n +plain +plain-0, plain", text)
    assert "differ and cannot change the network: data.workers" in text
    page = tmp_path / "compare" / "index.html"
    assert f"written: {page}, {output}" in text
    parsed = read_page(page)
    assert [s["aria-labelledby"] for s in parsed.all("section")] == [
        "figures-title", "differences-title", "seeds-title", "settings-title", "curves-title",
        "method-title",
    ]  # fmt: skip
    said = " ".join(parsed.text.split())
    for words in ("Comparison of 6 runs", "Each run minus aia-0", "aia-0, aia-1, aia-2"):
        assert words in said


def test_two_runs_have_no_section_of_seeds(folder, tmp_path, capsys):
    assert call(folder, ["aia-0", "plain-0"], f"--workdir={tmp_path}") == (0, "")
    text = capsys.readouterr().out
    assert "p is corrected for 1 run\n" in text
    assert "only in the seed" not in text
    assert "Seeds" not in read_page(tmp_path / "compare" / "index.html").text.split("Method")[0]


def test_runs_that_are_left_out_are_named(folder, tmp_path, capsys):
    broken = write_run(tmp_path / "broken")
    (broken / "eval" / f"step_{STEP}.json").write_text("{")
    curves = write_run(tmp_path / "curves")
    (curves / "metrics.jsonl").write_text("{\n")
    names = ["aia-0", "plain-0", broken, curves, "nothing"]
    status, stderr = call(folder, names, f"--workdir={tmp_path}")
    assert status == 0
    wanted = [
        f"left out: '{broken}/eval/step_{STEP}.json' is damaged: evaluate the step again",
        f"left out: '{folder}/nothing' is not a folder: name the workdir of a run",
        f"left out: '{curves}/metrics.jsonl': 1 damaged line is left out",
    ]
    assert stderr.splitlines() == wanted
    text = " ".join(read_page(tmp_path / "compare" / "index.html").text.split())
    assert all(line.removeprefix("left out: ") in text for line in wanted)
    assert "broken" not in capsys.readouterr().out


ODD = ["a <b> & 'c'", "esc\x1b[31m", "line\nbreak", "right\u202eleft", "行人", "raw\udc80", '"q"']


def test_odd_names(tmp_path, capsys):
    for name in ODD:
        write_run(tmp_path / name)
    quoted = ",".join('"{}"'.format(str(tmp_path / name).replace('"', '""')) for name in ODD)
    output = tmp_path / "found.json"
    arguments = (f"--runs={quoted}", f"--workdir={tmp_path / 'page'}", f"--output={output}")
    assert call_main("--mode=compare", *arguments) == (0, "")
    text = capsys.readouterr().out
    assert not re.search("[\x1b\u202e\udc80]", text)
    for shown in (r"esc\x1b[31m", r"line\nbreak", r"right\u202eleft", r"raw\udc80"):
        assert shown in text
    assert [run["name"] for run in json.loads(output.read_text())["runs"]] == ODD
    page = tmp_path / "page" / "compare" / "index.html"
    parsed = read_page(page)
    assert "a <b> & 'c'" in parsed.text
    assert "b" not in {tag for tag, _ in parsed.tags} - {"body"}
    assert not re.search("[\x1b\u202e]", page.read_text("utf-8"))
    # A wide letter takes two columns.
    rows = [line for line in text.splitlines() if line.lstrip().startswith(("行人", '"q"'))]
    assert rows[1].index("0") - rows[0].index("0") == 2


def test_a_test_a_step_and_single_queries_are_chosen(folder, tmp_path, capsys):
    runs = [write_run(tmp_path / name) for name in "ab"]
    for run in runs:
        ranks = draw_ranks(1, queries=20)
        write_evaluation(run, *ranks, stem="step_200_market", step=200, dataset="market")
    page = f"--workdir={tmp_path}"
    chosen = ("--test=market", "--step=200", "--resample=query")
    assert call(tmp_path, "ab", *chosen, page) == (0, "")
    assert "market: 19 of 20 queries" in capsys.readouterr().out
    assert "samples of 19 queries" in read_page(tmp_path / "compare" / "index.html").text
    status, stderr = call(folder, ["aia-0", "plain-0"], "--test=duke", page)
    assert status == 2
    assert "holds no evaluation on duke: choose from people" in stderr


def test_mistakes_are_one_line_and_write_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    two = ["aia-0", "plain-0"]
    for wanted, names, *arguments in (
        ("'.*/aia-0' alone cannot be compared: name the workdirs of two or", ["aia-0"]),
        ("are the same run: name each run once", ["aia-0", "plain-0", "aia-0"]),
        ("--mode=compare reads the settings of the runs: omit --config", two, "--config=demo"),
        ("--workdir", two, "--workdir=file"),
        ("--output=/.* is a folder: name a file", two, f"--output={tmp_path}"),
        ("--output=x.csv would hold JSON: name a .json", two, "--output=x.csv"),
        ("--images is for --mode=embed, not --mode=compare", two, "--images=x"),
        ("flag --resample=x", two, "--resample=x"),
        ("flag --step=-1", two, "--step=-1"),
    ):
        status, stderr = call(folder, names, *arguments)
        assert (status, stderr.count("\n")) == (2, 1), stderr
        assert re.search(wanted, stderr), stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
