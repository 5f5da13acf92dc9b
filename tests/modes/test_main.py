"""The command line as a user calls it, on tiny data with a narrow network.

Some commands run in a process of their own, the others in this one, where JAX has started.
"""

import inspect
import json
import shutil
from functools import partial

import cv2
import numpy as np
import pytest
from support import run_main
from support.run_main import CUT, SMALL, TOY, call_main, lines
from support.tiny_datasets import write_tree

from batnet_jax.commands.run import load_mode
from batnet_jax.commands.table import COMMANDS, MODES
from batnet_jax.evaluation import compare


def run_small(folder, workdir, *arguments, entry=TOY, **options):
    """Run a small run with the toy backbone, or with the shortened one by `entry=CUT`."""
    toy = ("--config.model.backbone=toy",) if entry == TOY else ()
    return run_main.run_small(folder, workdir, *toy, *arguments, entry=entry, **options)


def call_small(folder, workdir, *arguments):
    """Run a small run with the toy backbone in this process, where JAX has started already."""
    places = (f"--config.data.dir={folder / 'data'}", f"--workdir={workdir}")
    words = ("--config=configs/demo.py", *places, *SMALL, "--config.model.backbone=toy")
    status, said = call_main(*words, *arguments)
    assert status == 0, said


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Train 6 steps without interruption; return the data's folder, the workdir and the process."""
    folder = tmp_path_factory.mktemp("main")
    process = run_small(folder, folder / "whole", "--config.steps=6")
    assert process.returncode == 0, process.stderr
    return folder, folder / "whole", process


def test_train_writes_the_promised_files(finished):
    _, workdir, process = finished
    assert (workdir / "checkpoints" / "6").is_dir()
    assert json.loads((workdir / "config.json").read_text())["steps"] == 6
    assert list((workdir / "tensorboard").glob("events*"))
    figures = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [f["step"] for f in figures] == [1, 2, 3, 4, 5, 6]
    wanted = {"step", "epoch", "loss", "loss_ce", "loss_triplet", "lr", "images_per_second"}
    assert all(wanted | {"data_wait"} <= f.keys() for f in figures)
    for f in figures:
        assert f["loss"] == pytest.approx(f["loss_ce"] + f["loss_triplet"], rel=1e-5)
        assert 0 <= f["data_wait"] <= 1
    result = json.loads((workdir / "eval" / "step_6.json").read_text())
    assert result.keys() == {
        *("dataset", "step", "num_query", "num_gallery", "num_valid_query"),
        *("mAP", "mINP", "cmc", "ap", "split", "same_camera"),
    }
    assert (result["dataset"], result["step"], result["ap"]) == ("pedestrians", 6, "precision")
    assert (result["num_query"], result["num_gallery"]) == (16, 40)
    assert set(result["cmc"]) == {"1", "5", "10", "20"}
    assert 0 < result["mAP"] < 1
    assert f"{100 * result['mAP']:.1f}%" in process.stdout
    assert "compiling, once" in process.stderr


def test_a_run_is_compared_with_its_copy(finished):
    _, whole, _ = finished
    copy = shutil.copytree(whole, whole.parent / "copy")
    found = compare([whole, copy])
    result = json.loads((whole / "eval" / "step_6.json").read_text())
    assert found["runs"][0]["mAP"]["value"] == pytest.approx(result["mAP"])
    (row,) = found["differences"]
    wanted = {"value": 0, "low": 0, "high": 0, "p": 1, "p_holm": 1}
    assert row == {"run": "copy", "mAP": wanted, "rank1": wanted}
    assert (found["settings"], len(found["groups"])) == ([], 1)


def test_eval_restores_on_any_number_of_devices(finished):
    folder, whole, _ = finished
    path = whole / "eval" / "step_6.json"
    before = json.loads(path.read_text())
    path.unlink()
    further = ["rerank=True", "expand=2", "single_shot=3", "verification=True", "breakdown=True"]
    further += ["open_set=True"]
    further = [f"--config.eval.{field}" for field in further]
    process = run_small(folder, whole, "--mode=eval", "--config.eval.step=6", *further, devices=2)
    assert process.returncode == 0, process.stderr
    after = json.loads(path.read_text())
    assert "mAP" in process.stdout
    assert "reranked" in process.stdout
    assert after.keys() - before.keys() == {
        "reranked", "expanded", "single_shot", "verification", "open_set", "per_camera",
        "per_identity",
    }  # fmt: skip
    assert after["num_query"] == before["num_query"]
    # The last bits of features depend on the batch of a device, so that two ranks may swap.
    np.testing.assert_allclose(after["mAP"], before["mAP"], atol=0.01)


def test_several_data_sets_without_cameras(finished, tmp_path):
    """Train and test on two data sets, with 0.3 of the identities held out."""
    folder, _, _ = finished
    files = {
        f"mine/{name}/{k}.jpg": cv2.imencode(".jpg", np.full((8, 4, 3), 9 * i + k, np.uint8))[1]
        for i, name in enumerate("abcdefghijkl")
        for k in range(4)
    }
    write_tree(tmp_path, {name: image.tobytes() for name, image in files.items()})
    run = tmp_path / "run"
    names = f"'pedestrians:tiny','folder:{tmp_path / 'mine'}'"
    call_small(
        folder, run, f"--config.data.train={names}", "--config.data.val_identities=0.3",
        "--config.steps=4", "--config.eval.every_epochs=1", "--config.num_epochs=1",
        "--config.warmup_epochs=0",
    )  # fmt: skip
    written = {p.name for p in (run / "eval").glob("*.json")}
    assert written == {
        *("step_4.json", "step_4_pedestrians-tiny.json", "step_4_folder-mine.json"),
        *("step_4_val.json", "step_4_pedestrians-tiny_val.json", "step_4_folder-mine_val.json"),
    }
    results = {name: json.loads((run / "eval" / name).read_text()) for name in written}
    assert results["step_4.json"] == results["step_4_pedestrians-tiny.json"]
    assert results["step_4.json"]["same_camera"] == "remove"
    assert results["step_4_folder-mine.json"]["same_camera"] == "keep"  # no camera is known
    assert results["step_4_folder-mine_val.json"]["split"] == "val"
    labels = json.loads((run / "labels.json").read_text())
    assert [row["label"] for row in labels] == list(range(len(labels)))
    assert {row["dataset"] for row in labels} == {"pedestrians-tiny", "folder-mine"}
    assert {row["name"] for row in labels if row["dataset"] == "folder-mine"} < set("abcdefghijkl")
    call_small(
        folder, run, "--mode=eval", f"--config.eval.datasets=('folder:{tmp_path / 'mine'}',)"
    )
    assert json.loads((run / "eval" / "step_4.json").read_text())["dataset"] == "folder-mine"


@pytest.mark.slow  # five processes; house/test_kept imports and exports in the default run
def test_weights_go_out_and_come_in(finished, tmp_path):
    """Exported and imported weights give the same figures."""
    folder, _, _ = finished
    published = partial(run_small, folder, entry=CUT)
    plan = ("--config.model.num_parts=0", "--config.model.part_sampling=published")
    run, file = tmp_path / "run", tmp_path / "w.safetensors"
    first = published(run, *plan, "--config.steps=2")
    assert first.returncode == 0, first.stderr
    export = published(run, *plan, "--mode=export", f"--output={file}")
    assert export.returncode == 0, export.stderr
    back = tmp_path / "back"
    imported = published("x", *plan, "--mode=import", f"--source={file}", f"--output={back}")
    assert imported.returncode == 0, imported.stderr
    _, *tensors = (back / "import.txt").read_text().splitlines()
    assert {line.split()[0] for line in tensors} == {"loaded"}
    again = published(back, *plan, "--mode=eval")
    assert again.returncode == 0, again.stderr
    ours, theirs = (
        json.loads((d / "eval" / f"step_{step}.json").read_text())
        for d, step in ((run, 2), (back, 0))
    )
    assert ours | {"step": 0} == theirs


def test_a_run_starts_from_the_weights_of_another(finished, tmp_path):
    folder, whole, _ = finished
    call_small(folder, tmp_path / "new", f"--config.init.from={whole}", "--config.steps=1")
    _, *tensors = (tmp_path / "new" / "init.txt").read_text().splitlines()
    assert {line.split()[0] for line in tensors} == {"loaded"}  # the identities are the same, too
    assert lines(tmp_path / "new")[0]["loss"] < lines(whole)[0]["loss"]


def test_report(finished):
    folder, whole, _ = finished
    call_small(folder, whole, "--mode=report")
    page = (whole / "report" / "index.html").read_text()
    assert "data:image/" in page
    assert "precision" in page


def snapshot(folder):
    """Return the time of the last change of each file."""
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_mistakes_are_one_line_and_change_nothing(finished, tmp_path):
    folder, whole, _ = finished
    empty = tmp_path / "empty"
    empty.mkdir()
    locked = tmp_path / "file"
    locked.write_text("")
    base = ("--config=configs/demo.py", f"--config.data.dir={folder / 'data'}", *SMALL)
    base = (*base, "--config.model.backbone=toy")
    other = f"--workdir={tmp_path / 'other'}"
    own = ("--config=configs/folder.py", f"--config.data.dir={tmp_path / 'd'}", other)
    msmt17 = ("--config=configs/msmt17.py", f"--config.data.manual_dir={empty}", other)
    cases = {  # arguments, a part of the message
        "unknown field": ((*base, other, "--config.lerning_rate=1"), "lerning_rate"),
        "unknown choice": ((*base, other, "--config.model.attention=x"), "aia, plain, none"),
        "wrong type": ((*base, other, "--config.batch.identities=many"), "batch.identities"),
        "no config": ((), "--config"),
        "no such config": (("--config=configs/nothing.py",), "nothing.py"),
        "unknown mode": ((*base, "--mode=fly"), "fly"),
        "stray argument": ((*base, "train"), "'train'"),
        "no data": ((*msmt17, f"--config.data.dir={tmp_path / 'd'}"), "MSMT17_V1"),
        "missing folder": ((*own, f"--config.data.manual_dir={empty / 'no'}"), "empty/no"),
        "too few identities": ((*base, other, "--config.batch.identities=13"), "12"),
        "workdir is a file": ((*base, f"--workdir={locked}"), "workdir"),
        "other run": ((*base, f"--workdir={whole}", "--config.seed=1"), "config.seed=0"),
        "other architecture": (
            (*base, f"--workdir={whole}", "--mode=eval", "--config.model.attention=plain"),
            "model.attention='aia'",
        ),
        "import of nothing": ((*base, other, "--mode=import"), "needs --source"),
        "init from nothing": ((*base, other, "--config.init.from=no/such.pth"), "no/such.pth"),
        "a table in training": ((*base, other, "--table=5"), "--mode=tables"),
        "a number for a name": ((*base, other, "--config.data.train=3"), "('msmt17',)"),
        "no checkpoint": ((*base, other, "--mode=eval"), "no checkpoint"),
        "no such step": (
            (*base, f"--workdir={whole}", "--mode=eval", "--config.eval.step=5"),
            "choose from 6",
        ),
    }
    before = snapshot(folder)
    for name, (arguments, named) in cases.items():
        assert_refused(*call_main(*arguments), named, name)
    assert not (tmp_path / "other").exists()
    assert snapshot(folder) == before


def assert_refused(status, message, named, name):
    """Assert that a command ended with a user's mistake, whose message names something."""
    assert status == 2, f"{name}: {status} {message}"
    assert message.count("\n") == 1, f"{name}: {message}"
    assert message.startswith("error: "), f"{name}: {message}"
    assert named in message, f"{name}: {message}"


def test_a_batch_that_three_devices_cannot_share(finished, tmp_path):
    """As a process, which has the exit status that `main.run` returns."""
    folder, _, _ = finished
    done = run_small(folder, tmp_path / "other", devices=3)
    assert_refused(done.returncode, done.stderr, "3 devices", "indivisible batch")
    assert not (tmp_path / "other").exists()


def test_help_lists_the_modes(capsys):
    assert call_main("--help") == (0, "")
    text = " ".join(capsys.readouterr().out.split())
    assert "train Prepares" in text
    assert "eval Restores" in text
    assert all(f" {name} {command.help}" in text for name, command in COMMANDS.items())


@pytest.mark.parametrize("name", MODES)
def test_a_mode_takes_its_flags_by_name(name):
    mode, own = load_mode(name), MODES[name].options
    assert list(inspect.signature(mode.run).parameters)[:2] == ["config", "workdir"]
    assert set(inspect.signature(mode.run).parameters) == {"config", "workdir", *own}


@pytest.mark.parametrize("name", [name for name in MODES if MODES[name].needs])
def test_a_mode_names_the_flag_that_it_needs(name):
    needed = MODES[name].needs[0].name
    assert_refused(*call_main(f"--mode={name}"), f"--mode={name} needs --{needed}: ", name)
