"""The times of compiling that the next run shows."""

import json
import time

import jax
import pytest

from batnet_jax.runtime import compile_time
from batnet_jax.runtime.compile_time import compiling, keep_seconds, program_key, read_seconds


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache in a folder of this test."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "xla-1"))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_next_time_says_how_long_the_last_took(folder, capfd, monkeypatch):
    def take(seconds, *parts):
        now = iter([10.0, 10.0 + seconds, 10.0 + seconds, 10.0 + seconds])
        monkeypatch.setattr(time, "monotonic", lambda: next(now))
        with compiling("train", *parts):
            pass
        return capfd.readouterr().err.splitlines()

    assert take(75, 4) == ["compiling, once; the first time on this machine",
                           "compiled in 1 min 15 s"]  # fmt: skip
    assert take(8, 4)[0] == "compiling, once; 1 min 15 s the last time on this machine"
    assert take(8, 4)[0] == "compiling, once; 8 s the last time on this machine"
    assert take(8, 5)[0] == "compiling, once; the first time on this machine"
    assert [path.name for path in folder.iterdir()] == ["xla-1-seconds.json"]  # not in the cache


def test_programs_have_names_of_their_own():
    keys = {program_key(*parts) for parts in (("a",), ("b",), ("a", 1), ("a", 1, 2), ("a", "1"))}
    assert len(keys) == 5
    assert program_key("a", 1) in keys


def test_the_oldest_times_are_forgotten(folder, monkeypatch):
    monkeypatch.setattr(compile_time, "MOST_KEPT", 2)
    for number, name in enumerate("abac"):
        keep_seconds(name, number)
    assert read_seconds() == {"a": 2.0, "c": 3.0}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": "x", "b": true, "c": 1e999, "d": 2}', "7"])
def test_a_damaged_file_is_begun_anew(folder, text):
    (folder / "xla-1-seconds.json").write_text(text)
    assert read_seconds() == ({"d": 2.0} if "d" in text else {})
    keep_seconds("e", 3)
    assert read_seconds()["e"] == 3
    assert json.loads((folder / "xla-1-seconds.json").read_text())["e"] == 3


@pytest.mark.parametrize("place", ["gs://bucket/xla", None, "/proc/no/such"])
def test_no_folder_no_times(folder, place):
    jax.config.update("jax_compilation_cache_dir", place)
    keep_seconds("a", 1)
    assert read_seconds() == {}
