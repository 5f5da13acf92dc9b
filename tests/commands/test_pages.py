"""Help, lists, and the version: what needs no run."""

import json
import subprocess
import sys

import pytest
from support.paths import ROOT
from support.run_main import call_main

from batnet_jax.commands import listings
from batnet_jax.commands.config_files import config_names
from batnet_jax.commands.parsers import make_parser, parsers_of
from batnet_jax.commands.table import COMMANDS, MODES, RUN, RUNS, all_options
from batnet_jax.commands.words import to_flags
from batnet_jax.config import FIELDS
from batnet_jax.errors import UserError
from batnet_jax.evaluation.comparison import UNITS
from batnet_jax.inference.index_file import KINDS
from batnet_jax.modes.tables import TABLES
from batnet_jax.retrieval import POOLINGS, checks

LIGHT = """
import json, sys
from batnet_jax import main
for line in json.loads(sys.argv[1]):
    assert main.run(["batnet", *line]) == 0, line
heavy = {"jax", "numpy", "tensorflow_datasets", "flax", "orbax", "argcomplete"} & sys.modules.keys()
sys.exit(f"imported for nothing: {heavy}" if heavy else 0)
"""


def test_no_page_imports_jax_or_numpy():
    """Jax takes seconds; a page is there at once."""
    lines = [["--help"], ["--version"], ["configs"], ["fields", "eval"], ["--mode=eval", "-h"]]
    lines += [[name, "--help"] for name in COMMANDS]
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, json.dumps(lines)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: batnet") == len(COMMANDS) + 2


@pytest.mark.parametrize("name", MODES)
def test_a_page_shows_the_words_the_flags_and_an_example(name, capsys):
    assert call_main(name, "--help") == (0, "")
    page = capsys.readouterr().out
    text = " ".join(page.split())
    for option in MODES[name].options.values():
        as_word = option.name.upper() in text
        as_flag = f"--{option.name}" in text
        assert as_flag or as_word or RUNS in MODES[name].words
        assert option.help in text
    assert ("RUN" in text) == bool({RUN, RUNS} & set(MODES[name].words))
    assert all(line in page for line in MODES[name].examples)
    assert max(map(len, page.splitlines())) < 100
    assert call_main(f"--mode={name}", "--help") == (0, "")
    assert capsys.readouterr().out == page


def test_the_examples_are_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people").mkdir()
    for command in MODES.values():
        assert command.examples
        for line in command.examples:
            assert any(word.startswith("--mode=") for word in to_flags(line.split()))


def test_the_choices_are_those_of_the_code():
    """The table may import no other package, so it repeats their names."""
    options = all_options()
    assert {name: own.choices for name, own in options.items() if own.choices} == {
        "index": KINDS,
        "pool": ("none", *POOLINGS),
        "resample": UNITS,
        "metric": checks.METRICS,
        "ap": checks.AP_CONVENTIONS,
        "same_camera": checks.SAME_CAMERA,
    }
    assert (options["table"].least, options["table"].most) == (min(TABLES), max(TABLES))


def test_a_flag_means_the_same_type_everywhere():
    """As absl knows each name once."""
    for command in MODES.values():
        for name, option in command.options.items():
            other = all_options()[name]
            assert (option.kind, option.default, option.choices) == (
                other.kind, other.default, other.choices
            )  # fmt: skip


def test_all_commands_have_a_parser():
    assert parsers_of(make_parser()).keys() == COMMANDS.keys()


def test_configs_lists_every_config(capsys):
    assert call_main("configs") == (0, "")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == config_names()
    assert "your own" in next(line for line in lines if line.startswith("folder "))


def test_fields_lists_every_setting(capsys):
    assert call_main("fields") == (0, "")
    lines = capsys.readouterr().out.splitlines()
    assert [line[9:].partition("=")[0] for line in lines if line[:1] == "-"] == list(FIELDS)
    text = " ".join(" ".join(lines).split())
    assert all(field.comment in text for field in FIELDS.values())


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("eval.ap", ["eval.ap"]),
        ("--config.EVAL.ap", ["eval.ap"]),
        ("num_", ["num_epochs", "model.num_parts", "loss.num_negatives"]),
        ("log.*", ["log.every_steps"]),
        ("hardest negatives", ["loss.num_negatives"]),
        ("profile", ["profile"]),
    ],
)
def test_a_pattern_chooses_settings(pattern, names):
    assert listings.match(pattern) == names


def test_fields_show_values_limits_and_defaults():
    text = listings.list_fields("learning_rate", "demo")
    assert text.startswith("--config.learning_rate=0.003 [default 0.0005]\n")
    assert "; above 0" in text
    assert "one of aia, plain, none" in listings.list_fields("model.attention")
    assert "--config.decay_epochs=(150,200,250)" in listings.list_fields("decay_epochs")
    assert "0 or more and below 1" in listings.list_fields("model.dropout")
    assert "True or False" in listings.list_fields("profile")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fields", "lerning_rate"), "did you mean learning_rate"),
        (("fields", "zzz"), "no setting has 'zzz' in its name or meaning: batnet fields lists all"),
        (("fields", "--config=nobody"), "--config=nobody is neither a file nor one of"),
        (("fields", "a", "b"), "unrecognized arguments: b"),
        (("configs", "x"), "unrecognized arguments: x"),
        (("completion",), "required: shell: see batnet completion --help"),
        (("completion", "fish"), "invalid choice: 'fish'"),
    ],
)
def test_mistakes(words, message):
    status, said = call_main(*words)
    assert (status, said.count("\n")) == (2, 1), said
    assert message in said


def test_a_config_that_fails_is_one_line(tmp_path):
    path = tmp_path / "mine.py"
    for text in ("1 / 0", "def get_config():\n    return 3", "", "def ("):
        path.write_text(text)
        with pytest.raises(UserError, match="cannot be read"):
            listings.list_fields("", str(path))
