"""Command lines with words, in the long form."""

import os
import re

import pytest
from support.paths import ROOT

from batnet_jax.commands.config_files import SAVED
from batnet_jax.commands.table import MODES
from batnet_jax.commands.words import to_flags
from batnet_jax.errors import UserError

FOLDER = str(ROOT / "configs" / "folder.py")
DEMO = str(ROOT / "configs" / "demo.py")


def flags_of(line):
    """Return the long form of a line, as a set."""
    return set(to_flags(["batnet", *line.split()])[1:])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with images, archives, and a run."""
    for name in ("people", "runs/people/checkpoints", "demo", "people.v2"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("shop.zip", "shop.tar.gz", "staff.csv", "mine.py"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ("eval runs/x", "--mode=eval --workdir=runs/x"),
        ("eval --workdir=runs/x", "--mode=eval --workdir=runs/x"),
        ("report runs/x", "--mode=report --workdir=runs/x"),
        ("embed runs/x in out.npz", "--mode=embed --workdir=runs/x --images=in --output=out.npz"),
        ("embed --output=o.npz runs/x in", "--mode=embed --workdir=runs/x --images=in "
         "--output=o.npz"),
        ("search runs/x q.jpg g.npz", "--mode=search --workdir=runs/x --query=q.jpg "
         "--gallery=g.npz"),
        ("search runs/x --query q.jpg g.npz --top 5 --keep-own", "--mode=search --workdir=runs/x "
         "--query=q.jpg --gallery=g.npz --top=5 --keep_own"),
        ("search runs/x --gallery=g.npz q.jpg --nokeep-own", "--mode=search --workdir=runs/x "
         "--query=q.jpg --gallery=g.npz --nokeep_own"),
        ("search --workdir=runs/x -- -q.jpg -g.npz", "--mode=search --workdir=runs/x "
         "--query=-q.jpg --gallery=-g.npz"),
        ("serve runs/x g.npz --port 0", "--mode=serve --workdir=runs/x --gallery=g.npz --port=0"),
        ("export runs/x x.onnx", "--mode=export --workdir=runs/x --output=x.onnx"),
        ("import a.pth runs/a --config=mine.py", "--mode=import --source=a.pth --output=runs/a "
         "--config=mine.py"),
        ("import a.pth runs/a --config.seed=3", "--mode=import --source=a.pth --output=runs/a "
         f"--config.seed=3 --config={SAVED}:a.pth"),
        ("compare runs/a runs/b runs/c", "--mode=compare --runs=runs/a,runs/b,runs/c"),
        ("compare runs/a, runs/b", '--mode=compare --runs="runs/a,",runs/b'),
        ("compare --runs=runs/a,runs/b", "--mode=compare --runs=runs/a,runs/b"),
        ("metrics q.npz g.npz --leave-out-own", "--mode=metrics --query=q.npz --gallery=g.npz "
         "--leave_out_own"),
        ("metrics q.npz --ap=trapezoid", "--mode=metrics --query=q.npz --ap=trapezoid"),
        ("tables --config mine.py --table 4", "--mode=tables --config=mine.py --table=4"),
        ("eval runs/x --config.eval.step 3 --config.eval.rerank", f"--config={SAVED}:runs/x "
         "--mode=eval --workdir=runs/x --config.eval.step=3 --config.eval.rerank"),
        ("--mode=eval --workdir=runs/x --config.eval.step=3", f"--config={SAVED}:runs/x "
         "--mode=eval --workdir=runs/x --config.eval.step=3"),
        ("train --config=mine.py --config.init.from=a b", None),
        ("--config mine.py --config.init.from a", '--config=mine.py --config.init["from"]=a'),
        ("--config=configs/demo.py --mode=eval", f"--config={DEMO} --mode=eval"),
        ("-config demo", f"-config={DEMO}"),
    ],
)  # fmt: skip
def test_words_become_flags(place, line, flags):
    if flags is None:
        with pytest.raises(UserError, match="'b' does not exist"):
            flags_of(line)
    else:
        # A flag starts a word; the path of the checkout may have spaces.
        assert flags_of(line) == set(re.split(" (?=-)", flags))


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ("people/", "--config.data.manual_dir=people/ --workdir=runs/people"),
        ("people.v2", "--config.data.manual_dir=people.v2 --workdir=runs/people.v2"),
        ("people/../shop.zip", "--config.data.manual_dir=people/../shop.zip --workdir=runs/shop"),
        ("shop.tar.gz", "--config.data.manual_dir=shop.tar.gz --workdir=runs/shop"),
        ("staff.csv", "--config.data.manual_dir=staff.csv --workdir=runs/staff"),
        ("./demo", "--config.data.manual_dir=./demo --workdir=runs/demo"),
        ("people --workdir=w --config.steps 5", "--config.data.manual_dir=people --workdir=w "
         "--config.steps=5"),
    ],
)  # fmt: skip
def test_a_folder_or_an_archive_is_trained_on(place, line, flags):
    assert flags_of(f"train {line}") == {"--mode=train", f"--config={FOLDER}", *flags.split()}


def test_the_current_folder_gives_the_run_its_name(place, monkeypatch):
    monkeypatch.chdir(place / "people")
    assert "--workdir=runs/people" in flags_of("train .")
    assert "--workdir=runs/folder" in flags_of("train /")


def test_images_go_with_a_config(place):
    assert flags_of("train people --config=msmt17") == {
        "--mode=train", f"--config={ROOT / 'configs' / 'msmt17.py'}",
        "--config.data.manual_dir=people",
    }  # fmt: skip


def test_train_takes_the_name_of_a_config(place):
    assert flags_of("train mine.py") == {"--mode=train", "--config=mine.py"}
    os.rmdir("demo")
    assert flags_of("train demo") == {"--mode=train", f"--config={DEMO}"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("serch runs/x", r"^there is no command 'serch' \(did you mean search\?\)"),
        ("runs/people", "^there is no command 'runs/people': batnet --help lists all$"),
        ("train demo", "^'demo' is a path here, and also the name of a config: write ./demo for"),
        ("train mine.py --config=demo", "names a config, and --config another: leave one out"),
        ("train people --config.data.manual_dir=shop.zip", "both name images: leave one out"),
        ("train nobody", r"'nobody' does not exist: name a folder, .zip or .tar of images, a .csv "
         r"of them, or the name of a config \(cuhk03_detected, .*, msmt17\)$"),
        ("train runs/people", "'runs/people' is the workdir of a run: the command that began"),
        ("train people shop.zip", "^unexpected argument 'shop.zip': batnet train DATA$"),
        ("eval", "^batnet eval needs RUN, the workdir of a run, a checkpoint, or a file of "
         "weights: batnet eval RUN$"),
        ("eval --config.eval.step=3", "^batnet eval needs RUN, "),
        ("search runs/x q.jpg", "^batnet search needs --gallery, what embed wrote, .*: batnet "
         "search RUN QUERY GALLERY$"),
        ("compare", "^batnet compare needs --runs, two or more .*: batnet compare RUN RUN ...$"),
        ("compare --runs=a,b c", "^unexpected argument 'c'"),
        ("metrics", "^batnet metrics needs --query, "),
        ("eval runs/x --mode=train", "^--mode and the command eval name two modes"),
        ("import a.pth", "^batnet import needs --output, the workdir to make: "),
    ],
)  # fmt: skip
def test_what_is_refused(place, line, message):
    with pytest.raises(UserError, match=message) as caught:
        flags_of(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in MODES if MODES[name].words])
def test_an_empty_word_is_refused(name):
    words = [] if name == "compare" else [""]
    with pytest.raises(UserError, match=f"^batnet {name}"):
        to_flags(["batnet", name, *words])


def test_a_word_keeps_its_characters(place):
    name = "a b=c,'\"--top"
    assert to_flags(["batnet", "eval", name])[2] == f"--workdir={name}"
    assert to_flags(["batnet", "metrics", "--query", "--top"])[2] == "--query=--top"
