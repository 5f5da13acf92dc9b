"""Paths of other users' folders and of impossible lengths, in every flag that takes a path."""

import builtins
import errno
import io
import os

import pytest
from support.run_main import call_main
from support.tiny_run import write_run

import batnet_jax
from batnet_jax.data.files.find_dataset import list_candidates
from batnet_jax.errors import UserError
from batnet_jax.runtime import paths

LONG = "x" * 300
DEEP = "/".join(["y" * 200] * 25)
"""A name of more characters than a file system allows, and a path of more than Linux allows."""


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A folder that may not be entered or listed. Tests run as root, so the calls are replaced."""
    folder = tmp_path / "locked"
    folder.mkdir()

    def refuse(call, itself):
        def guarded(path, *arguments, **options):
            name = "" if isinstance(path, int) else os.path.abspath(os.fsdecode(path))
            if name.startswith(f"{folder}/") or (itself and name == str(folder)):
                raise PermissionError(errno.EACCES, "Permission denied", name)
            return call(path, *arguments, **options)

        return guarded

    for module, name in ((os, "stat"), (os, "lstat"), (os, "mkdir"), (os, "open"), (io, "open")):
        monkeypatch.setattr(module, name, refuse(getattr(module, name), False))
    monkeypatch.setattr(builtins, "open", io.open)
    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, refuse(getattr(os, name), True))
    return folder


def test_the_helper(locked, tmp_path):
    for question in (paths.is_folder, paths.is_file, paths.exists):
        assert question(tmp_path) == (question is not paths.is_file)
        assert not question(tmp_path / "nowhere")
        assert not question(tmp_path / "null\0byte")
        with pytest.raises(
            UserError, match=r"/locked/a' cannot be looked up \(Permission denied\)"
        ):
            question(locked / "a")
        for name in (LONG, DEEP):
            with pytest.raises(
                UserError, match=r"looked up \(File name too long\): name a shorter"
            ):
                question(tmp_path / name)
    assert paths.existing_parent(tmp_path / "a" / "b") == tmp_path
    with pytest.raises(UserError, match="cannot be looked up"):
        paths.list_folder(locked)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


def commands(bad, run, tmp_path):
    """Command lines, each with one bad path."""
    config = "--config=configs/demo.py"
    here = [f"--workdir={run}"]
    folder = ["--config=configs/folder.py", f"--config.data.dir={tmp_path / 'd'}"]
    yield from (
        [config, f"--workdir={bad}"],
        [config, f"--workdir={bad}", "--mode=eval"],
        [config, f"--workdir={bad}", "--mode=report"],
        [config, f"--workdir={bad}", "--mode=export", f"--output={tmp_path / 'F.stablehlo'}"],
        [f"--config={bad}"],
        [config, f"--workdir={tmp_path / 'w'}", f"--config.data.dir={bad}"],
        [config, f"--workdir={tmp_path / 'w'}", f"--config.init.from={bad}"],
        [*folder, f"--workdir={tmp_path / 'w'}", f"--config.data.manual_dir={bad}"],
        [*folder, f"--workdir={tmp_path / 'w'}", f"--config.data.train='folder:{bad}',"],
        ["--mode=embed", f"--workdir={bad}", "--images=.", f"--output={tmp_path / 'F.npz'}"],
        ["--mode=embed", *here, f"--images={bad}", f"--output={tmp_path / 'F.npz'}"],
        ["--mode=search", *here, f"--query={bad}", f"--gallery={run}"],
        ["--mode=search", *here, f"--query={__file__}", f"--gallery={bad}"],
        ["--mode=search", *here, f"--faiss={tmp_path / 'i'}", f"--gallery={bad}.npz"],
        ["--mode=serve", *here, f"--gallery={bad}", "--port=0"],
        ["--mode=import", config, f"--source={bad}.safetensors", f"--output={tmp_path / 'o'}"],
        ["--mode=import", config, f"--source={__file__}", f"--output={bad}"],
        ["--mode=export", *here, config, f"--output={bad}.safetensors"],
        ["--mode=tables", "--table=1", f"--workdir={bad}", config],
        ["--mode=compare", f"--runs={bad},{run}", f"--workdir={tmp_path}"],
    )


COUNT = 20


@pytest.mark.parametrize("number", range(COUNT))
@pytest.mark.parametrize("kind", ["locked", "long", "deep"])
def test_every_flag_answers_in_one_line(kind, number, run, locked, tmp_path):
    bad = {"locked": locked / "a", "long": tmp_path / LONG, "deep": tmp_path / DEEP}[kind]
    found = list(commands(bad, run, tmp_path))
    assert len(found) == COUNT
    status, text = call_main(*found[number])
    assert status == 2, (found[number], text)
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert text.splitlines()[-1] == line
    assert ("Permission denied" if kind == "locked" else "File name too long") in text


def test_the_library_answers_in_one_line(run, locked, tmp_path):
    for bad in (locked / "a", tmp_path / LONG):
        with pytest.raises(UserError, match="cannot be looked up"):
            batnet_jax.load(bad)
        with pytest.raises(UserError, match=r"cannot be (looked up|read)"):
            batnet_jax.load(run).embed(bad)


def test_a_link_into_a_locked_folder_does_not_hide_its_neighbours(locked, tmp_path):
    (tmp_path / "all" / "people").mkdir(parents=True)
    os.symlink(locked / "a", tmp_path / "all" / "link")
    assert [path.name for path in list_candidates(tmp_path / "all")] == ["people"]
