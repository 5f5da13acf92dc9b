"""Which checkpoints are kept, and which is the best; the data of a checkpoint; environments."""

import json

import jax
import pytest
from support import needs
from support.stub_training import STEPS, steps_saved
from support.stub_training import prepared as prepared
from support.stub_training import runs as runs
from support.tiny_datasets import jpg, market_with, write_tree
from support.variants import few

from batnet_jax.data import load_dataset
from batnet_jax.data.dataset import concatenate
from batnet_jax.data.run_data import TRAIN_BY_LABEL
from batnet_jax.errors import UserError
from batnet_jax.training import loop as training
from batnet_jax.workdir import best_checkpoint, checkpoints, environment


def validated(runs, figures):
    """Let the evaluations during a run have these mAPs on held-out identities."""

    def evaluate(config, tests, embed, *, step, workdir, make_untrained):
        del config, embed, workdir, make_untrained
        return [
            {"dataset": t.name, "split": t.split, "step": step, "cmc": {"1": 0.0}, "mAP": value}
            for t, value in zip(tests, (figures[step], 0.0), strict=False)
        ]

    runs.monkeypatch.setattr(training, "run_tests", evaluate)
    return {"data.val_identities": 0.4, "eval.every_epochs": 1}


MAPS = {1: 0.1, 2: 0.5, 3: 0.3, 4: 0.5, 5: 0.4, 6: 0.2, 7: 0.1, 8: 0.1}


@pytest.mark.parametrize(
    ("keep", "keep_best", "left"),
    few(
        [(2, 0, [7, 8]), (2, 1, [2, 7, 8]), (1, 2, [2, 4, 8]), (3, 9, [*range(1, 9)])], keep=[0, 2]
    ),
)
def test_the_newest_and_the_best_are_kept(runs, keep, keep_best, left):
    fields = validated(runs, MAPS)
    workdir = runs.train(**fields, **{"checkpoint.keep": keep, "checkpoint.keep_best": keep_best})
    assert steps_saved(workdir) == left
    assert best_checkpoint.read(workdir) == MAPS
    best = 2 if keep_best else 7  # the earlier of two equals; among those kept
    assert checkpoints.choose_step(workdir, -1) == best
    assert checkpoints.choose_step(workdir, 0) == STEPS


def test_no_validation_no_best(runs):
    workdir = runs.train(**{"eval.every_epochs": 4, "checkpoint.keep": 2})
    assert steps_saved(workdir) == [7, 8]
    with pytest.raises(UserError, match=r"no checkpoint of .* was validated: set config.data.val"):
        checkpoints.choose_step(workdir, -1)


def test_figures_of_several_data_sets_count_alike(tmp_path):
    results = [{"split": "val", "mAP": 0.2}, {"split": "val", "mAP": 0.6}]
    best_checkpoint.record(tmp_path, 3, [*results, {"split": "test", "mAP": 0.9}])
    best_checkpoint.record(tmp_path, 4, [{"split": "test", "mAP": 0.9}])
    assert best_checkpoint.read(tmp_path) == {3: pytest.approx(0.4)}
    (tmp_path / "validation.json").write_text("{")
    assert best_checkpoint.read(tmp_path) == {}
    assert best_checkpoint.best({1: 0.3, 2: 0.5, 9: 0.9}, [1, 2, 3], 5) == [2, 1]


def test_other_images_are_another_run(runs, capfd):
    workdir = runs.train(steps=2)
    now = training.fingerprints
    change = dict.fromkeys(("train", TRAIN_BY_LABEL), "0" * 16)
    runs.monkeypatch.setattr(training, "fingerprints", lambda data: now(data) | change)
    with pytest.raises(UserError, match=r"was trained on other images .*, now 0{16}.: restore the"):
        runs.train(steps=3)
    change = {"pedestrians test": "0"}
    runs.train(steps=3)
    warning = f"warning: the images of pedestrians test have changed since '{workdir}'"
    assert warning in capfd.readouterr().err
    assert steps_saved(workdir) == [1, 2, 3]


def test_fingerprints_follow_the_content(tmp_path):
    """Equal wherever and whenever prepared; different for another pixel, label or image."""

    def prepare(name, files):
        write_tree(tmp_path / name / "m", market_with(files))
        return load_dataset(
            "market1501", data_dir=tmp_path / name / "d", manual_dir=tmp_path / name / "m"
        ).query.content_fingerprint()

    files = {f"{pid:04}_c1s1_{k}.jpg": jpg(10 * pid + k) for pid in (5, 6) for k in range(3)}
    first = prepare("a", files)
    assert prepare("b", files) == first
    renamed = {n.replace("0006_c1", "0006_c2"): image for n, image in files.items()}
    changes = [files | {"0005_c1s1_0.jpg": jpg(99)}, renamed, dict(list(files.items())[1:])]
    others = [prepare(f"c{i}", changed) for i, changed in enumerate(changes)]
    assert len({first, *others}) == 4


def test_fingerprints_follow_the_choice_of_images(prepared):
    split = load_dataset("pedestrians", variant="tiny", data_dir=prepared / "data").train
    half = split.take(split.pids > split.pids[0])
    again = split.take(split.pids > split.pids[0])
    joined = concatenate([split, half])
    assert half.content_fingerprint() == again.content_fingerprint()
    assert len({s.content_fingerprint() for s in (split, half, joined)}) == 3


def test_each_start_is_recorded(runs):
    runs.train(steps=2)
    workdir = runs.train(steps=3)
    first, second = map(json.loads, (workdir / "environment.jsonl").read_text().splitlines())
    assert (first["step"], second["step"], first["seed"]) == (0, 2, 0)
    assert first["packages"]["jax"] == jax.__version__
    assert {"numpy", "flax", "orbax-checkpoint"} <= first["packages"].keys()
    assert first["devices"] == {jax.devices()[0].device_kind: jax.device_count()}
    assert first["platform"] == "cpu"
    assert first["time"] <= second["time"]
    assert isinstance(first["command"], list)
    assert first["host"]


def test_git_state(tmp_path):
    needs.program("git")
    assert (environment.ROOT / "batnet_jax" / "main.py").is_file()
    assert environment.git_state(tmp_path) is None

    def git(*arguments):
        who = ("-c", "user.name=n", "-c", "user.email=e")
        return environment._git(tmp_path, *who, *arguments)

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "x")
    clean = environment.git_state(tmp_path)
    assert clean == {"commit": git("rev-parse", "HEAD"), "changed": []}
    (tmp_path / "a").write_text("2")
    assert environment.git_state(tmp_path) == clean | {"changed": ["a"]}
    (tmp_path / "b").mkdir()
    assert environment.git_state(tmp_path / "b") is None  # a package installed within the checkout
