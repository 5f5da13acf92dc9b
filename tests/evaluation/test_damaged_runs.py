"""Comparisons of runs that are damaged or may not be read: each is named and left out."""

import contextlib
import json
import os
import re
import tempfile
import zipfile
from pathlib import Path

import pytest
from support.evaluated_runs import (
    FEW,
    STEP,
    draw_ranks,
    refused,
    write_evaluation,
    write_run,
)
from support.fuzzing import examples, fuzz_files, survives
from support.fuzzing import limits as limits
from support.paths import ROOT

from batnet_jax.errors import UserError
from batnet_jax.evaluation import compare
from batnet_jax.evaluation.evaluated_run import read_curves, read_run

TEST = {"dataset": "people", "split": "test", "ap": "precision", "same_camera": "remove"}


def remove(workdir):
    (workdir / "eval" / f"step_{STEP}.npz").unlink()


def replace(name, content):
    return lambda workdir: (workdir / name).write_bytes(content)


NAME = f"eval/step_{STEP}"
RESULT = {
    "dataset": "people", "split": "test", "step": STEP, "mAP": 0.5, "mINP": 0.5, "ap": "precision",
    "cmc": {"1": 0.5}, "num_query": 40, "num_valid_query": 39, "num_gallery": 300,
    "same_camera": "remove",
}  # fmt: skip
BAD = [b"", b"{", b"[]", b"\xff\xfe", b"9" * 5000, b"[" * 100_000]
BAD += [json.dumps(RESULT | change).encode() for change in (
    {"cmc": {}}, {"cmc": None}, {"mAP": float("nan")}, {"mAP": 10**400}, {"mAP": "0.5"},
    {"mAP": True}, {"mAP": 1.5}, {"step": 600.0}, {"split": 1}, {"dataset": None},
)]  # fmt: skip
BREAK = [
    ("is not a folder: name the workdir", lambda workdir: workdir.rename(f"{workdir}-moved")),
    (
        "holds no evaluation: evaluate it with --mode=eval",
        lambda workdir: (workdir / "eval").rename(workdir / "elsewhere"),
    ),
    ("older version, which kept no figures of each query: evaluate step", remove),
    (r"step_600\.npz' is damaged", replace(f"{NAME}.npz", b"PK")),
    (
        r"step_600\.npz' is of another evaluation",
        replace(f"{NAME}.json", json.dumps(RESULT).encode()),
    ),
    *(
        (r"config\.json' is damaged: restore it", replace("config.json", content))
        for content in (*BAD[:6], b'{"seed": []}', b'{"a": ' * 10**5)
    ),
    *((r"step_600\.json' is damaged", replace(f"{NAME}.json", content)) for content in BAD),
]


@pytest.mark.parametrize(("reason", "damage"), BREAK)
def test_a_run_that_cannot_be_read_is_left_out(pair, tmp_path, reason, damage):
    broken = write_run(tmp_path / "c")
    damage(broken)
    found = compare([*pair, broken], **FEW)
    assert [run["name"] for run in found["runs"]] == ["a", "b"]
    (left_out,) = found["left_out"]
    assert left_out["run"] == str(broken)
    assert re.search(reason, left_out["reason"])
    # All others are compared with the first run, and one run is no comparison.
    refused(rf"{reason}.*\(all others are compared with the first run\)", broken, *pair)
    refused(f"no run is left to compare with '.*/a': .*{reason}", pair[0], broken)


def test_the_evaluation_of_an_older_version(tmp_path):
    """The kept workdir of commit ac51c8a."""
    with zipfile.ZipFile(ROOT / "tests" / "kept" / "workdir.zip") as archive:
        names = [name for name in archive.namelist() if "checkpoints" not in name]
        archive.extractall(tmp_path, names)
    run = tmp_path / "run"
    with pytest.raises(UserError) as error:
        read_run(run)
    assert str(error.value) == (
        f"'{run}' was evaluated by an older version, which kept no figures of each query: evaluate"
        f" step 3 again, by --mode=eval with --workdir={run} and the run's --config"
    )


@pytest.fixture
def open_folder():
    """Return a folder that another user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextlib.contextmanager
def as_nobody():
    """Give up root's right to enter every folder."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("place", [".", "eval", "config.json", f"{NAME}.json", f"{NAME}.npz"])
def test_a_folder_or_file_that_may_not_be_entered(open_folder, place):
    runs = [write_run(open_folder / name) for name in "abc"]
    locked = runs[2] / place
    locked.chmod(0)
    with as_nobody():
        found = compare(runs, **FEW)
    locked.chmod(0o755)
    (left_out,) = found["left_out"]
    assert re.search(r"/c.*cannot be read \(Permission denied\)", left_out["reason"])


@examples(60, 2000)
def test_damaged_results_and_settings(tmp_path, examples):
    """Whatever is in them: one line, or a run."""
    workdir = write_run(tmp_path / "run", steps=(STEP,))
    for name in (f"{NAME}.json", "config.json"):
        path = workdir / name
        whole = path.read_bytes()

        def reads(content, path=path):
            path.write_bytes(content)
            return not isinstance(survives(read_run, workdir, folder=tmp_path), str)

        fuzz_files(examples, reads, [whole])
        path.write_bytes(whole)


def test_curves(tmp_path):
    workdir = write_run(tmp_path / "run", steps=(20, 100, 3))
    write_evaluation(workdir, *draw_ranks(1), stem="step_9", step=9, ap="trapezoid")
    write_evaluation(workdir, *draw_ranks(1), stem="step_8_val", step=8, split="val")
    curves, messages = read_curves(workdir, TEST)
    assert messages == []
    assert (
        [step for step, _ in curves.mean_ap] == [step for step, _ in curves.rank1] == [3, 20, 100]
    )
    result = json.loads((workdir / "eval" / "step_20.json").read_text())
    assert (curves.mean_ap[1][1], curves.rank1[1][1]) == (result["mAP"], result["cmc"]["1"])
    assert [step for step, _ in curves.loss] == list(range(10, 101, 10))
    assert read_curves(tmp_path / "nothing", TEST) == (([], [], []), [])


def test_damaged_points_are_named_and_left_out(tmp_path):
    workdir = write_run(tmp_path / "run")
    (workdir / "eval" / "step_400.json").write_text("{")
    lines = [
        b'{"step": 1, "loss": 3.0}', b"\xff\xfe", b"{", b"[1]", b'{"loss": 1}', b'"step"',
        b'{"step": "2", "loss": 1}', b'{"step": NaN, "loss": 1}', b'{"step": 3, "loss": NaN}',
        b'{"step": 4}', b'{"step": 5, "loss": true}', b'{"step": 6, "loss": 1' + b"0" * 400 + b"}",
        b'{"step": 7, "loss": 2}', b'{"step": 8, "lo',
    ]  # fmt: skip
    (workdir / "metrics.jsonl").write_bytes(b"\n".join(lines))
    curves, messages = read_curves(workdir, TEST)
    assert curves.loss == [(1, 3.0), (7, 2)]
    assert [step for step, _ in curves.mean_ap] == [200, STEP]
    assert len(messages) == 2
    assert "metrics.jsonl': 10 damaged lines are left out" in messages[0]
    assert "step_400.json' is damaged" in messages[1]
    (workdir / "metrics.jsonl").write_text('{\n{"step": 4, "loss": 1}\n')
    curves, messages = read_curves(workdir, TEST)
    assert "metrics.jsonl': 1 damaged line is left out" in messages[0]
    (workdir / "metrics.jsonl").unlink()
    (workdir / "metrics.jsonl").mkdir()
    curves, messages = read_curves(workdir, TEST)
    assert curves.loss == []
    assert re.search(r"metrics\.jsonl' cannot be read \(it is a folder\)", messages[0])
