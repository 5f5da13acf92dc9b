"""benchmarks/tpu_program.py: its tables, and what it compiles for a TPU that is not there."""

import json
import subprocess
import sys

import pytest
import tpu_program
from support import needs
from support.paths import ROOT

from batnet_jax.runtime.tpu_chips import CHIPS

ROW = {
    "program": "step", "chip": "v5e", "chips": 4, "dtype": "bfloat16", "precision": "default",
    "batch": 64, "width": 1.0, "reduction": 4, "streams": 4,
    "size": [256, 128],
}  # fmt: skip
DONE = {
    "seconds": 300.0, "state": 2**30, "temporaries": 2**30, "code": 2**21, "flops": 5e9,
    "moved": 7e9, "cycles": 30_000_000, "memory": 2**31, "milliseconds": [8.5, 40.0],
    "parts": {"blk1 forward": 1_000_000, "rest": 2_000_000},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("jit(step)/jvp(BATNet)/blk2/inception_3a/conv", "blk2 forward"),
        ("jit(step)/transpose(jvp(BATNet))/part_streams/blk3/dot", "part_streams back"),
        ("jit(embed)/BATNet/bi_attention/dot", "bi_attention"),
        ("jit(step)/jvp()/add", "rest"),
        ("", "rest"),
    ],
)
def test_an_instruction_belongs_to_a_part(name, part):
    assert tpu_program.part_of(name) == part


def test_the_tables(capsys):
    full = {"needed": 20 * 2**30, "there": 15 * 2**30}
    tpu_program.show([ROW | DONE, ROW | {"batch": 512} | full, ROW | {"error": "no"}])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == (
        "| step | 4 x v5e | bfloat16 | 64 | 300 | 2,048 | 12 % | 2 | 5.0 | 7.0 | 30.0 | 8.5 to 40 |"
    )
    assert "20,480 | 133 %" in lines[3]
    assert lines[3].endswith("does not fit |")
    assert lines[-1] == "rest 2.0; blk1 forward 1.0"
    tpu_program.show([ROW | DONE | {"streams": 0}])
    assert "| step, 0 part streams |" in capsys.readouterr().out


def test_what_the_file_has_is_not_compiled_again(tmp_path, monkeypatch, capsys):
    path = tmp_path / "tpu.jsonl"
    path.write_text(json.dumps(ROW | DONE) + "\n")
    line = ["--programs=step", "--chips=v5e-4", "--dtype=bfloat16", f"--json={path}"]
    monkeypatch.setattr(sys, "argv", ["tpu_program.py", *line])
    monkeypatch.setattr(tpu_program, "describe_devices", lambda *_: pytest.fail("compiles"))
    tpu_program.main()
    assert "| step | 4 x v5e |" in capsys.readouterr().out


@pytest.mark.slow
def test_step_and_evaluator_fit_a_v5e(tmp_path):
    needs.installed("libtpu")
    path = tmp_path / "tpu.jsonl"
    small = ["--width=0.25", "--size", "128", "64", "--batch", "32", "--dtype", "bfloat16"]
    command = [sys.executable, str(ROOT / "benchmarks/tpu_program.py"), f"--json={path}", *small]
    done = subprocess.run(
        [*command, "--programs", "evaluator", "step"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 7
    for row in rows:
        assert "memory" in row, row
        assert row["memory"] < CHIPS["v5e"].memory
    parts = set(rows[-1]["parts"])
    assert {f"{part} {way}" for part in tpu_program.PARTS for way in ("forward", "back")} <= parts


def test_the_documents_show_what_the_result_file_has():
    page = (ROOT / "docs" / "performance.md").read_text()
    rows = tpu_program.read(ROOT / "docs" / "results" / "tpu.jsonl")
    steps = [row for row in rows if row["program"] == "step"]
    assert len(steps) == 3
    for row in [*steps, *(row for row in rows if row["program"] == "embed")]:
        assert f" {row['cycles'] / 1e6:.1f} " in page
    low, high = steps[-1]["milliseconds"]
    assert f"{low:.3g} to {high:.3g}" in page
    first, last = steps[0]["cycles"], steps[-1]["cycles"]
    assert f"({first / last:.2f}x fewer)" in page
    assert all(row["commit"] for row in rows)
