"""`make bench`: its table, and what it says has changed."""

import importlib
import json
import sys

import numpy as np
import pytest
from support.paths import ROOT


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("bench")
    sys.path.remove(str(ROOT / "benchmarks"))


def results(ratio, *, name="search", what="w", turns=9, machine=1.0):
    """Return the file of a run whose measure takes about `ratio` times its yardstick."""
    rng = np.random.default_rng(0)
    beside = machine * (1 + rng.random(turns))  # a busy machine, which both meet alike
    ours = ratio * beside * (1 + 0.02 * rng.standard_normal(turns))
    measure = {"ours_s": ours.tolist(), "yardstick_s": beside.tolist(), "what": what, "beside": "b"}
    return {"machine": "m", "versions": ["v 1"], "measures": {name: measure}}


def row(text):
    return [cell.strip() for cell in text.splitlines()[2].strip("|").split("|")]


def test_the_ratio_comes_first(bench):
    name, ratio, spread, *_ = row(bench.table(results(3.0), None))
    assert name == "search"
    assert float(ratio) == pytest.approx(3, rel=0.03)
    low, high = (float(value) for value in spread.split(" to "))
    assert low < float(ratio) < high


@pytest.mark.parametrize(
    ("now", "word"), [(3.0, "within the noise"), (3.6, "slower"), (2.5, "faster")]
)
@pytest.mark.parametrize("machine", [1.0, 7.0])
def test_changes_beyond_the_noise_are_told(bench, now, word, machine):
    last = row(bench.table(results(now, machine=machine), results(3.0)))[-1]
    assert word in last
    assert last.startswith(f"{now / 3:.2f}x")


def test_what_was_not_measured_is_not_compared(bench):
    for then in (results(3.0, name="step"), results(3.0, what="of another size")):
        assert row(bench.table(results(3.0), then))[-1] == "not measured then"
    assert "too few turns" in row(bench.table(results(4.0, turns=2), results(3.0, turns=2)))[-1]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"measures": 3}', '{"measures": {"a": {"ours_s": [1]}}}', "\xff"]
)
def test_a_file_of_something_else_is_refused(bench, tmp_path, text):
    path = tmp_path / "old.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SystemExit, match="holds no measures"):
        bench.read_old(path)
    path.write_text(json.dumps(results(3.0)))
    assert bench.read_old(path) == results(3.0)


SLOW = ("step", "evaluator", "reranking", "search", "bi_attention", "help", "compile", "imports")


@pytest.mark.parametrize(
    "name", ["images", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_each_measure_can_be_taken(bench, name, capsys):
    bench.child(name, quick=True)
    found = json.loads(capsys.readouterr().out)
    assert len(found["ours_s"]) == len(found["yardstick_s"]) > 0
    assert min(found["ours_s"] + found["yardstick_s"]) > 0


def test_every_measure_is_tested(bench):
    assert set(bench.MEASURES) == {"images", *SLOW}
