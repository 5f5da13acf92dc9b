"""Files are whole before anything is printed, and an old file stays if the disk is full."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import needs
from support.mean_colour_model import config, png, use_colours, write_gallery
from support.paths import ROOT
from support.run_main import TOY
from support.tiny_run import write_run

from batnet_jax.errors import UserError
from batnet_jax.inference.feature_file import FeatureFile
from batnet_jax.modes import metrics, search
from batnet_jax.report.ranked_list import Person, RankedList, draw_ranked_lists
from batnet_jax.runtime import atomic_write


class Gone:
    """A standard output whose reader is gone."""

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    flush = write


def test_search_writes_its_file_before_it_prints(tmp_path, monkeypatch):
    use_colours(monkeypatch)
    gallery, out = write_gallery(tmp_path / "gallery"), tmp_path / "r.json"
    query = tmp_path / "q.png"
    query.write_bytes(png((250, 0, 0)))
    arguments = {"gallery": gallery, "query": query, "top": 2, "output": out, "keep_own": True}
    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(BrokenPipeError):
        search.run(config(), tmp_path / "run", faiss=None, **arguments)
    assert len(json.loads(out.read_text())["results"]) == 1
    needs.package("faiss")
    out.unlink()
    with pytest.raises(BrokenPipeError):
        search.run(config(), tmp_path / "run", faiss=tmp_path / "F.index", **arguments)
    assert out.exists()
    assert (tmp_path / "F.index").exists()


def test_metrics_writes_its_file_before_it_prints(tmp_path, monkeypatch):
    labels = {"query_label": [0, 1], "gallery_label": [0, 1], "query_cam": [0, 0]}
    features = {"query_f": np.eye(2), "gallery_f": np.eye(2), "gallery_cam": [1, 1]}
    path, out = tmp_path / "q.npz", tmp_path / "r.json"
    np.savez(path, **labels, **features)
    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(BrokenPipeError):
        metrics.run(config(), tmp_path, query=path, gallery=None, output=out, **METRICS)
    assert json.loads(out.read_text())["mAP"] == 1


METRICS = {
    "distances": None, "metric": "cosine", "ap": "precision", "same_camera": "remove",
    "leave_out_own": False,
}  # fmt: skip


@pytest.fixture
def full(monkeypatch):
    """Let every file that is written atomically meet a full disk, after its first bytes."""

    def fail(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(atomic_write, "_flush", fail)


@pytest.mark.usefixtures("full")
def test_a_picture_on_a_full_disk_leaves_the_old_one(tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(b"old")
    person = Person(np.zeros((8, 4, 3), np.uint8), 1, None)
    row = RankedList(person, 0.5, [person])
    with pytest.raises(OSError, match="No space left"):
        draw_ranked_lists(path, [row], dataset="x", step=1, mean_ap=0.5)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_a_picture_appears_whole(tmp_path):
    person = Person(np.zeros((8, 4, 3), np.uint8), 1, None)
    for target in (tmp_path / "p.png", str(tmp_path / "q.png")):
        draw_ranked_lists(
            target, [RankedList(person, 0.5, [person])], dataset="x", step=1, mean_ap=0
        )
        with Image.open(target) as image:
            image.load()


@pytest.mark.parametrize("failing", ["folder", "library"])
def test_an_index_that_cannot_be_written_leaves_the_old_one(failing, tmp_path, monkeypatch):
    faiss = needs.package("faiss")
    path = tmp_path / "f.index"
    path.write_bytes(b"old")
    if failing == "library":  # what faiss raises on a full disk

        def fail(index, name):
            Path(name).write_bytes(b"half")
            raise RuntimeError("Error in virtual size_t write:\nfailed: No space left on device")

        monkeypatch.setattr(faiss, "write_index", fail)
    else:
        monkeypatch.setattr(atomic_write, "_flush", lambda _: os.stat("/nowhere"))
    gallery = FeatureFile(np.eye(3, dtype=np.float32), None)
    with pytest.raises(UserError, match="cannot write --faiss=") as info:
        search.write_index(path, gallery, "hnsw" if failing == "library" else "flat")
    assert "\n" not in str(info.value)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f.index"]


def test_names_cannot_break_a_line_or_control_the_terminal(tmp_path, monkeypatch, capsys):
    use_colours(monkeypatch)
    gallery, out = tmp_path / "gallery", tmp_path / "r.json"
    gallery.mkdir()
    names = ["a\nb.png", "c\x1b[31md.png", os.fsdecode(b"\xff.png")]
    for name in names:
        (gallery / name).write_bytes(png((9, 9, 9)))
    arguments = {"gallery": gallery, "query": gallery, "top": 3, "output": out, "keep_own": True}
    search.run(config(), tmp_path / "run", faiss=None, **arguments)
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 3 * 4 + 2
    assert not any(set(line) & set("\x1b\udcff") for line in lines)
    found = {query["query"] for query in json.loads(out.read_text())["results"]}
    assert found == {str(gallery / name) for name in names}


@pytest.mark.slow  # runtime/test_streams closes pipes
def test_head_ends_a_command_quietly(tmp_path):
    """As `--mode=search --output=r.json | head -0` in a shell."""
    run = write_run(tmp_path / "run")
    for number, name in enumerate(["0.png", os.fsdecode(b"\xe4.png"), "a\nb.png"]):
        colours = np.random.default_rng(number).integers(0, 256, (20, 10, 3))
        path = tmp_path / "g" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(colours.astype(np.uint8)).save(path)
    out = tmp_path / "r.json"
    command = [sys.executable, *TOY, "--mode=search", f"--workdir={run}"]
    command += [f"--query={tmp_path / 'g'}", f"--gallery={tmp_path / 'g'}", f"--output={out}"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    features = [*command[:2], "--mode=embed", f"--workdir={run}", f"--images={tmp_path / 'g'}"]
    features.append(f"--output={tmp_path / 'f.npz'}")
    strict = environment | {"PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(features, cwd=ROOT, env=strict, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        text = process.stderr.read().decode()
    assert process.returncode == 0, text
    assert "Traceback" not in text
    assert "BrokenPipe" not in text
    assert len(json.loads(out.read_text())["results"]) == 3
