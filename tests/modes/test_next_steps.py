"""The end of a run: the commands that it names run as they are."""

import io
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.run_main import SMALL, call_main

from batnet_jax.modes import next_steps
from batnet_jax.modes.next_steps import as_word, program

TOY = ("--config.model.backbone=toy", "--config.steps=2", "--config.eval.batch=16")
FOLDER = [word for word in SMALL if "variant" not in word]


def run(*words):
    """Run a command line; return its stdout."""
    said = io.StringIO()
    before, sys.stdout = sys.stdout, said
    try:
        status, errors = call_main(*words)
    finally:
        sys.stdout = before
    assert status == 0, errors
    return said.getvalue()


def paste(line):
    """Return the words of a line as a shell would pass them on, without the program."""
    words = shlex.split(line)
    start = shlex.split(program())
    assert words[: len(start)] == start
    return words[len(start) :]


def commands(said):
    """Return the three command lines at the end of a run, as words."""
    found = [paste(line) for line in said.splitlines()[-3:]]
    assert [words[0] for words in found] == ["report", "embed", "search"]
    return found


def check(found):
    """Run the three commands; check what they leave and say."""
    report, embed, search = found
    run(*report)
    run(*embed)
    assert Path(embed[3]).exists()
    ranked = run(*search)
    assert len(ranked.splitlines()) > 2
    assert search[2] not in ranked.splitlines()[1]  # the query itself is left out


def test_drawn_people_leave_samples(tmp_path, monkeypatch):
    workdir = tmp_path / "it's a run"
    said = run(
        "train", "--config=configs/demo.py", *SMALL, *TOY,
        f"--config.data.dir={tmp_path / 'data'}", f"--workdir={workdir}",
    )  # fmt: skip
    found = commands(said)
    assert f"in '{workdir}': the network" in said
    samples = workdir / "samples"
    assert (found[1][2], Path(found[2][2]).parent) == (str(samples), samples)
    names = sorted(path.name for path in samples.iterdir())
    assert len(names) == 20
    assert len({name.split("_")[1] for name in names}) == 5
    check(found)


@pytest.mark.parametrize("split", ["", pytest.param("all", marks=pytest.mark.slow)])
def test_a_folder_of_the_users_is_named(tmp_path, monkeypatch, split):
    rng = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    for person in range(8):
        for number in range(4):
            path = Path("our people", f"p {person}", f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (64, 32, 3), dtype=np.uint8)).save(path)
    if split:  # names of images begin at the folder of their split then
        for name in ("train", "query", "gallery"):
            shutil.copytree("our people", Path("split", name))
        shutil.rmtree("our people")
        Path("split").rename("our people")
    said = run(
        "train", "our people", *FOLDER, *TOY, "--config.num_epochs=1",
        "--config.data.dir=data", "--workdir=-run",
    )  # fmt: skip
    found = commands(said)
    assert found[0][1] == "./-run"
    assert found[1][2] == "our people"
    assert Path(found[2][2]).is_relative_to("our people")
    assert not Path("-run/samples").exists()
    check(found)


def test_words_for_the_shell(monkeypatch, tmp_path):
    assert as_word("-x") == "./-x"
    assert as_word("--trust=a") == "--trust=a"
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "a b" / "batnet")])
    monkeypatch.setattr(next_steps.shutil, "which", lambda name: None)
    assert program() == f"'{tmp_path}/a b/batnet'"
    monkeypatch.setattr(next_steps.shutil, "which", lambda name: f"/bin/{name}")
    assert program() == "batnet"
    monkeypatch.setattr(sys, "argv", ["main.py"])
    monkeypatch.setattr(sys, "executable", "/bin/python")
    assert program() == "python -m batnet_jax.main"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert program() == ".venv/bin/python -m batnet_jax.main"
