"""Lines of libraries: which are dropped, and where the others go."""

import os
import subprocess
import sys

import pytest
from absl import logging
from support.paths import ROOT

from batnet_jax.runtime.quiet import LEVEL, hush_xla, hushed_absl

CODE = """
import io, sys
from batnet_jax.runtime.quiet import hush_libraries
hush_libraries()
assert "jax" not in sys.modules
from absl import logging
sys.stderr = io.StringIO()  # as a bar on a terminal takes its place
logging.warning("advice")
logging.error("raised, too", exc_info=ValueError("x"))
logging.error("in the open")
print(sys.stderr.getvalue())
"""


def test_absl_writes_errors_alone_where_stderr_is_at_the_time():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stderr == ""
    assert "raised" not in done.stdout
    assert "advice" not in done.stdout
    line = done.stdout.split("\n")[-3]
    assert line.startswith("E")
    assert line.endswith("] in the open")


@pytest.mark.parametrize("given", [None, "0", "2"])
def test_the_users_level_of_xla_stays(monkeypatch, given):
    monkeypatch.delenv(LEVEL, raising=False)
    if given is not None:
        monkeypatch.setenv(LEVEL, given)
    hush_xla()
    assert os.environ[LEVEL] == (given or "3")
    monkeypatch.setenv(LEVEL, "")  # what this test has set goes with it


def test_absl_is_hushed_for_a_while():
    before = logging.get_verbosity()
    with hushed_absl():
        assert logging.get_verbosity() == logging.ERROR
    assert logging.get_verbosity() == before
