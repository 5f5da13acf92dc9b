"""Completion of words in a shell, as bash asks for it."""

import os
import shlex
import subprocess
import sys

import pytest
from support import needs
from support.paths import ROOT
from support.run_main import call_main

from batnet_jax.commands.config_files import config_names
from batnet_jax.commands.table import COMMANDS
from batnet_jax.config import FIELDS

needs.package("argcomplete")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a `batnet`, a run, and images."""
    place = tmp_path_factory.mktemp("place")
    for name in ("runs/people", "photos"):
        (place / name).mkdir(parents=True)
    (place / "me.jpg").touch()
    program = place / "batnet"
    line = shlex.join([sys.executable, "-m", "batnet_jax.main"])
    program.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
    program.chmod(0o755)
    return place


ASK = """
eval "$(batnet completion bash)"
COMP_LINE="$1" COMP_POINT=${#1} COMP_TYPE=9
compopt() { :; }
_python_argcomplete batnet
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(place, line):
    """Return what bash offers at the end of a line."""
    path = f"{place}:{os.environ['PATH']}"
    done = subprocess.run(
        [needs.program("bash"), "-c", ASK, "bash", line], cwd=place, capture_output=True, text=True,
        env=os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {word.strip() for word in done.stdout.splitlines()} - {""}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("batnet ", set(COMMANDS)),
        ("batnet se", {"search", "serve"}),
        ("batnet eval ru", {"runs/"}),
        ("batnet search runs/people --po", {"--pool"}),
        ("batnet search runs/people --pool ", {"none", "mean", "max"}),
        ("batnet search runs/people --pool=m", {"mean", "max"}),
        ("batnet search runs/people me", {"me.jpg"}),
        ("batnet train --config=de", {"demo"}),
        ("batnet train --config.model.att", {"--config.model.attention"}),
        ("batnet train --config.model.attention=", {"aia", "plain", "none"}),
        ("batnet completion ", {"bash", "zsh"}),
    ],
)
def test_bash_completes(place, line, offered):
    assert complete(place, line) == offered


def test_names_of_configs_and_files_complete_the_data(place):
    found = complete(place, "batnet train ")
    assert set(config_names()) | {"runs/", "photos/"} <= found


def test_settings_complete_where_they_are_begun(place):
    found = complete(place, "batnet eval runs/people --config.")
    assert {f"--config.{name}" for name in FIELDS} <= found
    assert complete(place, "batnet eval runs/people --") == {
        *("--config", "--workdir", "--trust", "--help")
    }


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_is_one_of_the_shell(shell, capsys):
    assert call_main("completion", shell) == (0, "")
    script = capsys.readouterr().out
    assert "batnet" in script
    done = subprocess.run(
        [needs.program(shell), "-n"], input=script, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
