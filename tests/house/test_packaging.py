"""The wheel: what is in it, and that it works where there is no source tree."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
from support import needs
from support.paths import ROOT
from support.run_main import SMALL

from batnet_jax.commands import config_files
from batnet_jax.version import VERSION

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
NOT_SOURCE = ("__pycache__", "*.egg-info", "build", "dist", "runs", ".*")
BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]  # setuptools changes sys.argv
print(build_meta.build_wheel(folder), build_meta.build_sdist(folder))
"""


def test_the_citation_names_this_version():
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert [line for line in lines if line.startswith("version:")] == [f"version: {VERSION}"]


def call(*command, cwd, timeout=300, **environment):
    """Runs a command of a user who has no checkout: the package is what the command has."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=own | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist, built in a copy: building leaves files in the source tree."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    needs.release("setuptools", int(re.fullmatch(r"setuptools>=(\d+)", asked[0])[1]))
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    done = call(sys.executable, "-c", BUILD, folder, cwd=source)
    assert done.returncode == 0, done.stderr
    wheel, sdist = done.stdout.split()[-2:]
    return folder / wheel, folder / sdist


def test_the_wheel_holds_the_package_and_its_configs(built):
    wheel, _ = built
    info = f"batnet_jax-{VERSION}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        scripts = archive.read(f"{info}/entry_points.txt").decode()
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "batnet_jax").rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    configs = {f"batnet_jax/configs/{name}.py" for name in NAMES}
    assert names - {name for name in names if name.startswith(f"{info}/")} == package | configs
    assert {f"{info}/METADATA", f"{info}/licenses/LICENSE"} <= names
    assert (metadata["Name"], metadata["Version"]) == ("batnet-jax", VERSION)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "batnet = batnet_jax.main:main" in scripts


def test_the_sdist_can_be_built_and_tested(built):
    _, sdist = built
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"Makefile", "constraints.txt", "LICENSE", "setup.py", "configs/demo.py"}
    wanted |= {"SECURITY.md", "requirements/test.txt", "requirements/compile.sh"}
    assert wanted | {"tests/conftest.py", "tests/modes/test_main.py", "docs/design.md"} <= names
    assert [name for name in names if name.endswith(".pyc") or "__pycache__" in name] == []


def test_an_unpacked_wheel_finds_its_configs(built, tmp_path):
    """No `configs/` here: the package's own is meant, by its name or its path in the source."""
    wheel, _ = built
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    run = (sys.executable, "-m", "batnet_jax.main")
    place = {"cwd": tmp_path, "PYTHONPATH": str(tmp_path / "site")}
    done = call(*run, "--version", **place)
    assert (done.stdout, done.returncode) == (f"batnet-jax {VERSION}\n", 0), done.stderr
    for config in ("--config=demo", "--config=configs/demo.py"):
        done = call(*run, config, "--mode=eval", **place)
        assert (done.returncode, done.stdout) == (2, "")
        assert "'runs/demo/checkpoints' holds no checkpoint" in done.stderr
    done = call(*run, "--config", "nothing", **place)
    assert done.returncode == 2
    assert (
        f"--config=nothing does not exist: name a file, or one of {', '.join(NAMES)}" in done.stderr
    )


def test_a_file_of_the_user_goes_before_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = str(ROOT / "configs" / "demo.py")
    assert config_files.find_config("demo") == config_files.find_config("configs/demo.py") == own
    assert config_files.find_config("else/demo.py") == "else/demo.py"
    assert config_files.find_config("nothing") == "nothing"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.py").write_text("")
    assert config_files.find_config("configs/demo.py") == "configs/demo.py"
    assert config_files.find_config("demo") == own
    assert config_files.config_names() == NAMES


@pytest.mark.slow
def test_installed_into_an_empty_environment(built, tmp_path):
    """Needs an index of packages, as `make test` does."""
    wheel, _ = built
    done = call(sys.executable, "-m", "venv", "venv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tools = tmp_path / "venv" / "bin"
    install = ("install", "-q", "--disable-pip-version-check", "-c", ROOT / "constraints.txt")
    done = call(tools / "pip", *install, wheel, cwd=tmp_path, timeout=1800)
    assert done.returncode == 0, done.stderr
    batnet = (tools / "batnet", "--config=demo", *SMALL)
    for arguments in (
        ("--config.steps=3",),
        ("--mode=eval",),
        ("--mode=export", "--output=m.stablehlo"),
    ):
        done = call(*batnet, *arguments, cwd=tmp_path, timeout=900)
        assert done.returncode == 0, done.stderr
        assert "mAP" in done.stdout or "m.stablehlo" in done.stdout
    assert (tmp_path / "runs" / "demo" / "eval" / "step_3.json").is_file()
    assert "| pedestrians | test |" in (tmp_path / "m.stablehlo.md").read_text()
