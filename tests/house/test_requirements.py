"""The hashes of packages: complete, of the versions of constraints.txt, and nothing else."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support import needs
from support.paths import ROOT

FOLDER = ROOT / "requirements"
FILES = sorted(path.stem for path in FOLDER.glob("*.txt"))
EXTRAS = ("test", "dev", "onnx", "openvino", "browser", "notebook", "tables", "docs", "gpu")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BEFORE = ("build", "run", "test")
ENTRY = re.compile(r"(\S+)==(\S+)( ;[^\\\n]+)? \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+")


def entries(name):
    """(package, version) of each package in a file."""
    return [(canonicalize_name(found[1]), found[2]) for found in matches(name)]


def matches(name):
    """The matches of `ENTRY` in a file."""
    lines = (FOLDER / f"{name}.txt").read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.lstrip().startswith("#"))
    assert ENTRY.sub("", text) == "", f"{name}.txt has other lines"
    return list(ENTRY.finditer(text))


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in found}


def test_all_files_are_there():
    assert set(FILES) == {"build", "run", *EXTRAS}


@pytest.mark.parametrize("name", FILES)
def test_versions_are_those_of_the_constraints(name):
    known = pins()
    for package, version in entries(name):
        assert known[package] == version, "run `make pins`"


def test_every_pin_has_hashes_but_those_of_pytorch():
    hashed = {package for name in FILES for package, _ in entries(name)}
    assert pins().keys() - hashed == {"torch"}


def asked(requirements):
    """The packages that a list of requirements names; the project's own extras are followed."""
    for text in requirements:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != "batnet-jax":
            yield canonicalize_name(requirement.name)
            continue
        for extra in requirement.extras:
            yield from asked(PROJECT["project"]["optional-dependencies"][extra])


@pytest.mark.parametrize("name", ["build", "run", *EXTRAS])
def test_a_file_has_all_that_is_asked_for(name):
    project = PROJECT["project"]
    wanted = {
        "build": PROJECT["build-system"]["requires"],
        "run": project["dependencies"],
    }.get(name) or project["optional-dependencies"][name]
    have = {package for file in (*BEFORE, name) for package, _ in entries(file)}
    assert set(asked(wanted)) <= have, "run `make pins`"


def test_no_package_is_in_two_files_that_make_installs_one_after_the_other():
    # One with a marker (; sys_platform == 'win32') may be: pip takes equal lines for one.
    packages = [found[1] for name in BEFORE for found in matches(name) if not found[3]]
    assert len(packages) == len(set(packages))


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_a_host(name):
    assert not re.search(r"://|--(extra-)?index|--find-links", (FOLDER / f"{name}.txt").read_text())


def test_make_installs_by_hashes_alone():
    """But for PyTorch, whose files lie in several places, and for this project itself."""
    make = needs.program("make")
    targets = ["test", "torch", "onnx", "browser", "notebook", "docs", "gpu", "lint"]
    command = [make, "-n", "-W", "pyproject.toml", *targets, "PYTHON=python3"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    installs = [line for line in said.splitlines() if " pip install " in line]
    loose = [line for line in installs if "--require-hashes" not in line]
    assert len(installs) - len(loose) >= 7
    ends = [line.partition("--disable-pip-version-check ")[2] for line in loose]
    allowed = {"--no-deps --no-build-isolation -e .", "-c constraints.txt -e '.[torch]'"}
    assert set(ends) == allowed


@pytest.fixture
def audit():
    spec = importlib.util.spec_from_file_location("audit", FOLDER / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flaw(*fixes):
    return {"id": "PYSEC-1", "fix_versions": list(fixes)}


def test_a_flaw_with_a_remedy_fails(audit):
    found = [{"name": "a", "version": "1", "vulns": [flaw("2", "1.5")]}]
    found += [{"name": "b", "version": "3", "vulns": []}, {"name": "c", "skip_reason": "unknown"}]
    assert audit.judge(found) == (
        [
            "a 1 has PYSEC-1: raise it in constraints.txt to 2 or 1.5",
            "2 of 3 packages checked for known flaws",
        ],
        1,
    )
    found[0]["vulns"] = [flaw()]
    lines, status = audit.judge(found)
    assert (lines[0], status) == ("a 1 has PYSEC-1: nothing mends it yet", 0)


@pytest.mark.parametrize("found", [None, [], [{"name": "a", "skip_reason": "not found"}]])
def test_without_an_index_one_line_says_so(audit, found):
    lines, status = audit.judge(found)
    assert (len(lines), status) == (1, 0)


@pytest.mark.parametrize("output", ["", "no connection", "{}", None])
def test_no_answer_is_no_failure(audit, monkeypatch, output):
    def run(command, **_):
        if output is None:
            raise subprocess.TimeoutExpired(command, 1)
        return subprocess.CompletedProcess(command, 1, output, "Traceback")

    monkeypatch.setattr(subprocess, "run", run)
    assert audit.judge(audit.ask())[1] == 0


def test_each_file_is_asked_about(audit, monkeypatch):
    commands = []

    def run(command, **_):
        commands.append(command)
        package = {"name": f"p{len(commands)}", "version": "1", "vulns": []}
        return subprocess.CompletedProcess(command, 0, json.dumps({"dependencies": [package]}), "")

    monkeypatch.setattr(subprocess, "run", run)
    assert len(audit.ask()) == len(FILES)
    assert {command[0] for command in commands} == {sys.executable}
    assert [command[-1].rsplit("/", 1)[1] for command in commands] == [f"{n}.txt" for n in FILES]
