"""--only-skipped of `skipped.py`, and how `needs.py` skips: in a project of a few tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import needs

TESTS = Path(__file__).parents[1]
PARALLEL = ("-p", "xdist", "-n", "2", "--dist", "loadfile")
WHOLE = """
from support import needs
needs.shared("a", "b")

def test_one():
    pass

def test_two():
    pass
"""
FILES = {
    "test_first.py": WHOLE,
    "test_second.py": WHOLE,
    "test_mixed.py": """
from support import needs
import pytest

@pytest.mark.parametrize("name", ["a", "b"])
def test_part(name):
    needs.shared("a", name)

def test_without():
    pass

@pytest.mark.xfail(reason="known")
def test_known():
    raise AssertionError
""",
    "test_free.py": """
def test_free():
    pass
""",
}


@pytest.fixture
def project(tmp_path):
    """A function that runs pytest there and returns its status and the counts that it tells."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    own = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    own |= {"PYTHONPATH": str(TESTS), "BATNET_SHARED": str(tmp_path / "shared")}
    own["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # one of the plugins imports JAX: seconds

    def run(*arguments):
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "support.skipped",
            f"--rootdir={tmp_path}",
        ]
        done = subprocess.run(
            [*command, *arguments], cwd=tmp_path, env=own, capture_output=True, text=True
        )
        closing = done.stdout.splitlines()[-1]
        counts = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", closing)}
        counts.pop("deselected", None)  # which pytest-xdist does not count
        return done.returncode, counts

    return run


@pytest.mark.parametrize(
    "parallel",
    [pytest.param((), id="alone"), pytest.param(PARALLEL, id="parallel", marks=pytest.mark.slow)],
)
def test_only_what_was_skipped_is_run(project, tmp_path, parallel):
    assert project(*parallel) == (0, {"passed": 2, "skipped": 4, "xfailed": 1})
    assert project(*parallel, "--only-skipped") == (0, {"skipped": 4})
    for name in "ab":
        (tmp_path / "shared" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "shared" / "a" / name).touch()
    project("--collect-only")  # keeps nothing
    for _ in range(2):
        assert project(*parallel, "--only-skipped") == (0, {"passed": 6})
    assert project(*parallel) == (0, {"passed": 8, "xfailed": 1})
    assert project(*parallel, "--only-skipped") == (0, {})
    assert project(*parallel, "--only-skipped", "-p", "no:cacheprovider")[0] == 0


def reason(function, *arguments):
    with pytest.raises(pytest.skip.Exception) as skipped:
        function(*arguments)
    return str(skipped.value)


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(needs.INSTALL, "no_such_package", "make it")
    monkeypatch.setitem(needs.INSTALL, "no_such.package", "make it")
    message = "no_such_package is not installed: make it"
    assert reason(needs.package, "no_such_package") == message
    assert reason(needs.installed, "pytest", "no_such_package") == message
    assert reason(needs.installed, "no_such.package") == "no_such.package is not installed: make it"
    assert needs.package("pytest") is pytest
    message = "setuptools 1000 or later is not installed: pip install -e '.[test]'"
    assert reason(needs.release, "setuptools", 1000) == message
    assert reason(needs.program, "no-such", "nor-such") == "not on the PATH: no-such or nor-such"
    assert needs.program("no-such", "env") == needs.program("env")
    monkeypatch.setenv("BATNET_SHARED", str(tmp_path))
    message = f"no a/b in {tmp_path}: set BATNET_SHARED to the folder that has it"
    assert reason(needs.shared, "a", "b") == message
    (tmp_path / "a").mkdir()
    assert needs.shared("a") == tmp_path / "a"
