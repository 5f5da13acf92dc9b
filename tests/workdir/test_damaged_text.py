"""Damaged text beside whole checkpoints: a run is resumed, and what cannot be read is named."""

import itertools
import json
import os
import re
import shutil

import numpy as np
import pytest
from support.evaluated_runs import STEP, write_run
from support.stub_training import Runs, arrays, steps_saved
from support.stub_training import prepared as prepared
from support.stub_training import runs as runs
from support.variants import slow

from batnet_jax.data.run_data import RetrievalTest
from batnet_jax.errors import RunFailure, UserError
from batnet_jax.evaluation.evaluate import is_evaluated
from batnet_jax.export.model_card import read_results
from batnet_jax.modes.accept import parse_accept, threshold
from batnet_jax.modes.report import read_evaluations
from batnet_jax.training import fitted, start
from batnet_jax.workdir import best_checkpoint
from batnet_jax.workdir.run_folder import older_settings

# The state of a stub has no step of its own: see fake_state.
TEXTS = (
    *("metrics.jsonl", "config.json", "labels.json", "environment.jsonl", "validation.json"),
    *("names.json", "parameters.txt", "eval/step_2.json", "lock"),
)
DAMAGE = {
    "no UTF-8": b"\xff\xfe\x00{",
    "null": b"null",
    "nulls": b'{"step": null, "seed": null, "2": null}\n',
    "a list": b"[[], 7]",
    "a number": b"1e999",
    "a long number": b"9" * 5000,
    "deep": b'{"a":' * 50_000,
    "deep lists": b"[" * 100_000,
    "empty": b"",
    "lone surrogates": b'{"seed": "\\ud800", "step": "\\udfff"}\n',
    "another encoding": '{"seed": 0, "dataset": "Stra\xdfe"}\n'.encode("latin-1"),
    "control": b'{"\\u001b[2J": "\\n"}\n\x85\x1c\n',
}


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """Return a workdir of two steps, and one of the three steps that follow from them."""
    with pytest.MonkeyPatch.context() as patch:
        runs = Runs(tmp_path_factory.mktemp("whole"), prepared, patch)
        runs.train("run", steps=2)
        shutil.copytree(runs.folder / "run", runs.folder / "on")
        return runs.folder / "run", runs.train("on", steps=3)


QUICK = ("no UTF-8", "nulls", "a long number", "deep", "empty")


@pytest.mark.parametrize(
    "damage", [damage if damage in QUICK else slow(damage) for damage in DAMAGE]
)
def test_a_run_is_resumed_whatever_its_texts_say(whole, runs, damage, capfd):
    workdir = runs.folder / "run"
    shutil.copytree(whole[0], workdir)
    for name in TEXTS:
        (workdir / name).write_bytes(DAMAGE[damage])
    for name in ("events.out.tfevents.12x.host", "events.out.tfevents." + "9" * 200, "\udcff.x"):
        (workdir / "tensorboard" / name).write_bytes(b"")
    runs.train(steps=3)
    err = capfd.readouterr().err
    assert "Traceback" not in err
    once = f"'{workdir / 'config.json'}' is damaged or has been changed, and is left out"
    assert err.count(once) == 1
    assert steps_saved(workdir) == [1, 2, 3]
    for name, value in arrays(whole[1], 3).items():
        np.testing.assert_array_equal(arrays(workdir, 3)[name], value, err_msg=name)
    (line,) = (workdir / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 3
    for name in ("config.json", "labels.json"):
        assert (workdir / name).read_text() == (whole[1] / name).read_text()
    starts = (workdir / "environment.jsonl").read_bytes()
    assert starts.startswith(DAMAGE[damage])
    assert json.loads(starts.split(b"\n")[-2])["step"] == 2


NAMES = ["metrics.jsonl", "config.json", "environment.jsonl"]


@pytest.mark.parametrize(
    ("name", "kind"), [*itertools.product(NAMES, ["folder", "pipe"]), ("eval", "pipe")]
)
def test_what_is_no_file_ends_in_a_line(whole, runs, name, kind, capfd):
    workdir = runs.folder / "run"
    shutil.copytree(whole[0], workdir)
    path = workdir / name
    if name == "eval":
        shutil.rmtree(path)
    else:
        path.unlink()
    (os.mkfifo if kind == "pipe" else os.mkdir)(path)
    if name == "environment.jsonl" and kind == "pipe":  # is replaced
        runs.train(steps=3)
        assert f"left out: '{path}' cannot be read (it is a pipe" in capfd.readouterr().err
        return
    with pytest.raises((UserError, RunFailure), match=re.escape(f"'{path}'")) as error:
        runs.train(steps=3)
    assert "\n" not in str(error.value)


def test_settings_that_a_checkpoint_contradicts_are_refused_as_before(whole, runs):
    workdir = runs.folder / "run"
    shutil.copytree(whole[0], workdir)
    (workdir / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"holds a run with config\.seed=0, not 5"):
        runs.train(steps=3, seed=5)
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(UserError, match=r"config\.json' is damaged: delete it"):
        start.check_run(runs.config(), workdir)


def test_the_checkpoint_tells_what_the_start_has_chosen(whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole[0], workdir)
    config, people = fitted.read_start(workdir)
    (workdir / "labels.json").write_bytes(b"\xff")
    assert fitted.read_start(workdir) == (config, people)
    (workdir / "config.json").write_text("[]")
    assert fitted.read_start(workdir) == (config, people)
    assert older_settings(workdir) == {}


ODD = [b"\xff", b"{", b"[]", b"null", b"{}", b"[" * 10**5, b'{"dataset": "people"}', b"9" * 5000]
CHANGES = [
    {"step": 601}, {"step": None}, {"step": True}, {"mAP": "0.5"}, {"mAP": None}, {"cmc": {}},
    {"cmc": [0.1]}, {"cmc": {"1": None}}, {"mINP": float("nan")}, {"mAP": 10**400}, {"mAP": -0.1},
    {"dataset": ["people"]}, {"dataset": "a\nb"}, {"dataset": "\ud800"}, {"split": {}},
    {"ap": 7}, {"num_gallery": "300"}, {"num_valid_query": 39.0}, {"leave_out_own": "no"},
]  # fmt: skip


@pytest.mark.parametrize("change", [*ODD, *CHANGES], ids=repr)
def test_odd_results_are_named_and_left_out(change, tmp_path, capsys):
    """Of the report, of the model card, and of the scores to accept by."""
    workdir = write_run(tmp_path / "run")
    path = workdir / "eval" / f"step_{STEP}.json"
    assert len(read_results(workdir, STEP)) == 1
    assert [result["step"] for result in read_evaluations(workdir)] == [200, 400, STEP]
    assert capsys.readouterr().err == ""
    odd = change if isinstance(change, bytes) else None
    if odd is None:
        odd = json.dumps(json.loads(path.read_text()) | change).encode()
    path.write_bytes(odd)
    assert read_results(workdir, STEP) == []
    assert [result["step"] for result in read_evaluations(workdir)] == [200, 400]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(
        line.startswith(f"warning: left out: '{path}' is damaged: evaluate") for line in lines
    )


POINT = {"wanted_false_accept_rate": 0.01, "threshold": 0.5, "resolved": True}


@pytest.mark.parametrize(
    "points", [7, [7], [{}], None, [POINT | {"threshold": None}], [POINT | {"threshold": "x"}],
               [POINT | {"wanted_false_accept_rate": [1]}], [POINT | {"threshold": float("nan")}]]
)  # fmt: skip
def test_odd_operating_points_are_one_line(points, tmp_path):
    path = tmp_path / "eval" / "step_3.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"verification": {"operating_points": [POINT]}}))
    assert threshold(parse_accept("far=0.01"), tmp_path, 3) == 0.5
    for text in (json.dumps({"verification": {"operating_points": points}}), "[" * 10**5):
        path.write_text(text)
        with pytest.raises(UserError, match=r"step_3\.json' is damaged: evaluate the step again"):
            threshold(parse_accept("far=0.01"), tmp_path, 3)


def test_damaged_validation_is_read_from_the_evaluations(tmp_path, capsys):
    """Otherwise the best checkpoint would no longer be kept."""
    workdir = write_run(tmp_path, steps=(1, 2, 3), split="val")
    path = workdir / "validation.json"
    figures = {r["step"]: r["mAP"] for r in read_evaluations(workdir)}
    assert best_checkpoint.read(workdir) == {}
    for text in ("{", "[]", "\x00", json.dumps({"2": None, "x": 1}), '{"3": NaN}'):
        path.write_text(text)
        assert best_checkpoint.read(workdir) == figures
    path.write_text('{"1": 0.5, "2": true}')
    assert best_checkpoint.read(workdir) == figures | {1: 0.5}
    best_checkpoint.record(workdir, 4, [{"split": "val", "mAP": 0.25}])
    assert json.loads(path.read_text()) == {
        str(step): share for step, share in (figures | {1: 0.5, 4: 0.25}).items()
    }
    assert f"left out: '{path}' is damaged" in capsys.readouterr().err
    best_checkpoint.record(workdir, 5, [{"split": "val", "mAP": 0.25}])
    assert capsys.readouterr().err == ""


def test_a_damaged_evaluation_is_not_finished(tmp_path):
    workdir = write_run(tmp_path)
    tests = [RetrievalTest("people", "test", None, None)]
    assert is_evaluated(workdir, tests, STEP)
    (workdir / "eval" / f"step_{STEP}.json").write_text("{")
    assert not is_evaluated(workdir, tests, STEP)
