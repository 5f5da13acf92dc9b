"""The figures of a run: damaged lines, TensorBoard's files, and a system's clock that is set."""

import itertools
import json
import struct
import time

import pytest
from support.stub_training import STEPS, steps_saved
from support.stub_training import prepared as prepared
from support.stub_training import runs as runs
from support.terminal import attach

from batnet_jax.errors import RunFailure
from batnet_jax.runtime.progress import progress_bar
from batnet_jax.workdir.metrics_log import MetricsLog, read_metrics, read_whole_lines
from batnet_jax.workdir.tensorboard import Events

DAMAGED = [
    b"\xff\xfe", b"{", b"[1]", b'"step"', b"7", b"{}", b'{"step": "2"}', b'{"step": NaN}',
    b'{"step": null}', b"[" * 10**5, b'{"step": [3]}', b'{"step": true}', b'{"step": 1e999}',
    b'{"step": 1' + b"0" * 400 + b"}", b"\xc3(", b'{"step": ' + b"9" * 5000 + b"}",
]  # fmt: skip


def test_damaged_lines_are_left_out_and_counted(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    assert read_whole_lines(tmp_path) == ([], [])
    lines = [b'{"step": 1}', *DAMAGED, b'{"step": 9, "loss": 2.0}', b'{"step": 10']
    path.write_bytes(b"\n".join(lines))
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 9, "loss": 2.0}]
    (message,) = read_whole_lines(tmp_path)[1]  # the last line was cut off by a kill: no damage
    assert f"metrics.jsonl': {len(DAMAGED)} damaged lines are left out" in message
    MetricsLog(tmp_path, step=5).close()  # a resumed run goes on behind step 5
    assert path.read_bytes() == b'{"step": 1}\n'
    assert f"metrics.jsonl': {len(DAMAGED)} damaged lines are removed" in capsys.readouterr().err
    path.write_bytes(b'{"step": 1}\n{"step": 9}\n{"step": 10')  # killed, and not damaged
    MetricsLog(tmp_path, step=5).close()
    assert path.read_bytes() == b'{"step": 1}\n'
    assert not capsys.readouterr().err


def points(path):
    """Return (step, tag, value) of each event of a file; check the checksums."""
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c

    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        body = data[12 : 12 + length]
        assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked_crc32c(body)
        data = data[16 + length :]
        event = event_pb2.Event.FromString(body)
        value = event.summary.value[0] if event.summary.value else None
        found.append((event.step, value and value.tag, value and value.simple_value))
    return found


def test_events_are_there_at_once_and_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 2000.0)
    first = Events(tmp_path / "t", 0)
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    second = Events(tmp_path / "t", 5)  # the clock was set back
    second.scalar("train/loss", 0.25, 6)
    old, new = sorted((tmp_path / "t").iterdir())  # the order in which TensorBoard reads
    assert points(old)[1:] == [(1, None, None)]
    assert points(new)[1:] == [(6, None, None), (6, "train/loss", 0.25)]
    first.close()
    second.close()


def test_the_bar_moves_while_the_clock_goes_back(monkeypatch):
    hours = itertools.count(500_000, -3600)
    monkeypatch.setattr("tqdm.std.time", lambda: float(next(hours)))
    ticks = itertools.count(100)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
    terminal = attach(monkeypatch)
    with progress_bar(100, description="train") as bar:
        for _ in range(100):
            bar.update(1)
    shown = terminal.close()
    assert shown.count("train:") >= 4
    assert "-" not in shown.replace("it/s", "")
    assert "100/100" in shown


def test_a_run_while_the_clock_goes_back(runs):
    """Rates use the monotonic clock, and no other figure depends on the time."""
    back = itertools.count(time.time(), -7.5)
    runs.monkeypatch.setattr(time, "time", lambda: next(back))
    runs.train(steps=3)
    workdir = runs.train()
    figures = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [f["step"] for f in figures] == list(range(1, STEPS + 1))
    assert all(0 < f["images_per_second"] < 1e7 for f in figures)
    assert all(0 <= f["data_wait"] <= 1 for f in figures)
    files = sorted((workdir / "tensorboard").iterdir())
    steps = [step for path in files for step, tag, _ in points(path) if tag == "train/loss"]
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_clock_that_is_set_while_a_checkpoint_is_written(runs):
    """Orbax reports a disk that hangs. The run ends with one line and can be resumed."""
    forward = itertools.count(0, 10**6)
    with runs.monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: float(next(forward)))
        with pytest.raises(RunFailure, match="took too long: the disk stalls, or the system's"):
            runs.train()
    workdir = runs.train()
    assert steps_saved(workdir)[-1] == STEPS
