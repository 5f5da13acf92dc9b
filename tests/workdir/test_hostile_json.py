"""Hostile text in a workdir: every reader gives what is whole, or one line."""

import contextlib
import json
import shutil

import pytest
from hypothesis import strategies as st
from support.evaluated_runs import STEP, write_run
from support.fuzzing import damaged, examples, fuzz, survives
from support.fuzzing import limits as limits
from support.stub_training import tiny_config

from batnet_jax.evaluation.evaluated_run import read_curves, read_run
from batnet_jax.export.model_card import read_results
from batnet_jax.modes.accept import parse_accept, threshold
from batnet_jax.modes.report import progress_of, read_evaluations
from batnet_jax.report.training_section import training_section
from batnet_jax.training.fitted import read_start
from batnet_jax.workdir import best_checkpoint, environment, metrics_log
from batnet_jax.workdir.metrics_log import MetricsLog, read_whole_lines
from batnet_jax.workdir.people import keep_names, read_names
from batnet_jax.workdir.run_folder import check_workdir, older_settings

VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
VALUES |= st.sampled_from([10**400, 2**63, 1e999, -0.0, 1e299, "\ud800", "\x1b[2J", "a\nb", "0.5"])
JSON = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
POINT = {"wanted_false_accept_rate": 0.01, "threshold": 0.5, "resolved": True}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a workdir with all texts of a run, and its config."""
    folder = tmp_path_factory.mktemp("texts")
    config = tiny_config(folder)
    workdir = write_run(folder / "run")
    (workdir / "config.json").write_text(config.to_json(indent=2))
    labels = [{"label": i, "dataset": "people", "pid": i, "name": n} for i, n in enumerate("abc")]
    (workdir / "labels.json").write_text(json.dumps(labels))
    (workdir / "names.json").write_text(json.dumps({"people": ["ann", "bob"]}))
    (workdir / "validation.json").write_text(json.dumps({"200": 0.25, "400": 0.5}))
    (workdir / "environment.jsonl").write_text('{"step": 0}\n')
    path = workdir / "eval" / f"step_{STEP}.json"
    result = json.loads(path.read_text()) | {"verification": {"operating_points": [POINT]}}
    path.write_text(json.dumps(result))
    return workdir, config


@pytest.fixture(autouse=True)
def known_environment(monkeypatch):
    """Neither ask git, nor look for packages, nor write files for TensorBoard."""
    monkeypatch.setattr(environment, "describe", lambda: {"host": "here"})
    monkeypatch.setattr(metrics_log, "Events", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(metrics_log.MetricsLog, "close", lambda log: log._file.close())


def read_all(workdir, config):
    """Call every reader of text; return what each has found, or its line."""
    test = {"dataset": "people", "split": "test", "ap": "precision", "same_camera": "remove"}

    def draw():
        evaluations = read_evaluations(workdir)
        lines = read_whole_lines(workdir)[0]
        progress = progress_of(evaluations[-1], evaluations) if evaluations else []
        section = training_section(lines, progress)
        str(section.body).encode()
        return [result["step"] for result in evaluations], len(lines)

    def record():
        environment.record(workdir, seed=0, step=0)
        best_checkpoint.record(workdir, 800, [{"split": "val", "mAP": 0.125}])
        keep_names(workdir, "more", ["cid"])
        MetricsLog(workdir, 300).close()
        return best_checkpoint.read(workdir)[800], len(read_whole_lines(workdir)[0])

    readers = {
        "run": lambda: read_run(workdir).result["mAP"] > 0,
        "curves": lambda: [len(curve) for curve in read_curves(workdir, test)[0]],
        "card": lambda: [result["dataset"] for result in read_results(workdir, STEP)],
        "report": draw,
        "accept": lambda: threshold(parse_accept("far=0.01"), workdir, STEP),
        "best": lambda: best_checkpoint.best(best_checkpoint.read(workdir), [200, 400]),
        "names": lambda: read_names(workdir),
        "older": lambda: older_settings(workdir),
        "check": lambda: check_workdir(config, workdir),
        "start": lambda: read_start(workdir),
        "record": record,
    }
    return {name: survives(read, folder=workdir.parent) for name, read in readers.items()}


WHOLE = {
    "run": True, "curves": [60, 3, 3], "card": ["people"], "report": ([200, 400, STEP], 60),
    "accept": 0.5, "best": [400], "names": {"a", "b", "c", "ann", "bob"}, "older": {},
    "check": None, "record": (0.125, 30),
}  # fmt: skip
FILES = {  # which readers a file concerns
    "config.json": {"run", "older", "check", "start"},
    "labels.json": {"names", "start"},
    "names.json": {"names"},
    "validation.json": {"best"},
    "metrics.jsonl": {"curves", "report", "record"},
    "environment.jsonl": set(),
    f"eval/step_{STEP}.json": {"run", "curves", "card", "report", "accept"},
}


def check_others(found, name):
    """Assert that the readers of the other files have found what they find in whole files."""
    others = {key: value for key, value in WHOLE.items() if key not in FILES[name]}
    assert {key: found[key] for key in others} == others


def fresh(whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    return shutil.copytree(whole[0], workdir)


def test_whole_texts_are_read(whole, tmp_path, capsys):
    found = read_all(fresh(whole, tmp_path), whole[1])
    assert {name: found[name] for name in WHOLE} == WHOLE
    config, people = found["start"]
    assert (people, config.to_json()) == (3, whole[1].to_json())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", FILES)
@examples(4, 200)
def test_damaged_bytes(whole, tmp_path, name, examples):
    def check(content):
        workdir = fresh(whole, tmp_path)
        (workdir / name).write_bytes(content)
        check_others(read_all(workdir, whole[1]), name)

    fuzz(examples, check, damaged([(whole[0] / name).read_bytes()]))


@pytest.mark.parametrize("name", FILES)
@examples(4, 200)
def test_other_values(whole, tmp_path, name, examples):
    """A file of another value, or one whose parts have other values."""
    text = (whole[0] / name).read_text()
    lines = [json.loads(line) for line in text.splitlines()] if ".jsonl" in name else None

    def check(value, key, within):
        tree = json.loads(text) if lines is None else dict(lines[0])
        keys = sorted(tree) if isinstance(tree, dict) else range(len(tree))
        if within and len(keys):
            tree[keys[key % len(keys)]] = value
            value = tree
        workdir = fresh(whole, tmp_path)
        end = "" if lines is None else "\n" + text
        (workdir / name).write_text(json.dumps(value) + end)
        check_others(read_all(workdir, whole[1]), name)

    fuzz(examples, check, JSON, st.integers(0, 100), st.booleans())
