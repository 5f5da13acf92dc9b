"""Progress on a terminal and off it."""

import itertools
import sys
import time

import pytest
from support.terminal import attach, on_screen

from batnet_jax.runtime import progress
from batnet_jax.runtime.progress import PLAIN_LINES, format_seconds, progress_bar, waiting

LAYOUT = "step {n_fmt}/{total_fmt} |{bar}| {remaining} left{postfix}"


@pytest.fixture
def ticks(monkeypatch):
    """A clock that passes a second each time that it is read."""
    seconds = itertools.count(1000)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))
    return seconds


def test_lines_are_whole_and_above_the_bars(monkeypatch):
    terminal = attach(monkeypatch)
    with progress_bar(4, description="train", unit="step", layout=LAYOUT) as bar:
        print("to stdout")
        bar.update(1)
        with progress_bar(2, description="embed") as inner:
            print("a table\nof two rows")
            print("to stderr", file=sys.stderr)
            print("begun, ", end="")
            inner.update(2)
            print("ended")
        bar.note("loss 0.5")
        bar.update(3)
    print("the end")
    assert (sys.stdout, sys.stderr) == (terminal.stream, terminal.stream)
    *rows, bar_row, end, last = on_screen(terminal.close())
    assert rows == ["to stdout", "a table", "of two rows", "to stderr", "begun, ended"]
    assert bar_row.startswith("step 4/4 |███")
    assert bar_row.endswith("| 00:00 left, loss 0.5")
    assert len(bar_row) <= 100
    assert (end, last) == ("the end", "")


def test_streams_are_given_back_after_an_error(monkeypatch):
    terminal = attach(monkeypatch)

    def fail():
        sys.stderr.write("no newline")
        raise KeyError

    with pytest.raises(KeyError), progress_bar(4, description="train"):
        fail()
    assert (sys.stdout, sys.stderr) == (terminal.stream, terminal.stream)
    assert on_screen(terminal.close())[1] == "no newline"


def test_waiting_is_one_line_on_a_terminal(monkeypatch):
    terminal = attach(monkeypatch)
    with waiting("compiling, once", "compiled") as seconds:
        time.sleep(0.01)
    with waiting("loading", "loaded", delay=60):
        pass
    assert seconds() > 0
    assert on_screen(terminal.close()) == ["compiling, once: 0 s", ""]


def test_waiting_is_two_lines_elsewhere(capfd, ticks):
    with waiting("compiling, once", "compiled") as seconds:
        time.sleep(0.05)
    assert capfd.readouterr().err.splitlines()[0] == "compiling, once"
    assert seconds() > 1
    with waiting("loading", "loaded", delay=1e6):
        pass
    assert capfd.readouterr() == ("", "")


def test_few_plain_lines_off_a_terminal(capfd, ticks):
    with progress_bar(10_000, description="embed gallery") as bar:
        bar.note("loss 0.5")
        for _ in range(10_000):
            bar.update()
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert (out, "\r" in err) == ("", False)
    assert PLAIN_LINES - 2 < len(lines) <= PLAIN_LINES
    first, last = lines[0], lines[-1]
    assert first.startswith("embed gallery: 500 of 10,000 images, 2 h 3")
    assert first.endswith(" min left, loss 0.5") or first.endswith(" left, loss 0.5")
    assert last == "embed gallery: 10,000 of 10,000 images, loss 0.5"


def test_a_pause_costs_no_time(monkeypatch, capfd):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress_bar(10, description="train", unit="step", initial=2) as bar:
        for _ in range(4):
            now[0] += 20
            bar.update()
            with bar.paused():
                now[0] += 1000
    lines = capfd.readouterr().err.splitlines()
    # Two steps are 40 s: the first of four lines is due after 30 s.
    assert lines == [
        "train: 4 of 10 steps, 2 min 0 s left",
        "train: 6 of 10 steps, 1 min 20 s left",
    ]


def test_a_pause_costs_no_time_on_a_terminal(monkeypatch):
    terminal = attach(monkeypatch)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress_bar(10, description="train", unit="step", initial=2, layout=LAYOUT) as bar:
        for _ in range(2):
            now[0] += 20
            bar.update()
            with bar.paused():
                now[0] += 1000
    (row, _) = on_screen(terminal.close())
    assert row.startswith("step 4/10 |")
    assert row.endswith("| 02:00 left")


def test_other_processes_show_nothing(monkeypatch, capfd):
    monkeypatch.setattr(progress.processes, "is_lead", lambda: False)
    with waiting("a", "b"), progress_bar(1, description="c") as bar:
        bar.update()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (472, "7 min 52 s"), (11100, "3 h 5 min")],
)
def test_durations_in_words(seconds, words):
    assert format_seconds(seconds) == words
