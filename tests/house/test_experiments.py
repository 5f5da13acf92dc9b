"""The tables of benchmarks/experiments.py: the statistics, and what docs/results.md shows."""

import json
import re

import experiments
import numpy as np
import pytest
from experiment_list import EXPERIMENTS
from support.paths import ROOT

from batnet_jax.config import FIELDS


def test_the_paired_interval_is_students():
    """By hand: differences 1, 2, 4 have the mean 7/3, a standard error of 0.8819 and t = 4.3027."""
    mean, half, runs = experiments.paired_difference(
        {0: 2.0, 1: 4.0, 2: 7.0, 5: 99.0}, {0: 1.0, 1: 2.0, 2: 3.0, 3: -50.0}
    )
    assert (mean, runs) == (pytest.approx(7 / 3), 3)
    assert half == pytest.approx(4.302653 * 0.881917, rel=1e-5)


def test_the_interval_holds_its_promise():
    """Of many sets of five pairs, 95 % of the intervals hold the true difference, which is 1."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        luck = rng.normal(size=5) * 3  # of a seed, common to both
        ours, other = 1 + luck + rng.normal(size=5), luck + rng.normal(size=5)
        mean, half, _ = experiments.paired_difference(
            dict(enumerate(ours.tolist())), dict(enumerate(other.tolist()))
        )
        held += abs(mean - 1) < half
    assert 0.91 < held / 400 < 0.98


def test_one_seed_has_no_interval():
    mean, half, runs = experiments.paired_difference({3: 0.5}, {3: 0.25, 4: 1.0})
    assert (mean, runs) == (0.25, 1)
    assert np.isnan(half)


@pytest.fixture
def one_experiment(tmp_path, monkeypatch):
    """An experiment with two arms and the results of three runs."""
    experiment = experiments.Experiment("Why?", "demo", {"steps": 9}, {"a": {}, "b": {}}, 2)
    monkeypatch.setattr(experiments, "EXPERIMENTS", {"one": experiment})
    monkeypatch.setattr(experiments, "RESULTS", tmp_path)
    (tmp_path / "one").mkdir()
    for arm, seed, figure in (("a", 0, 0.5), ("a", 1, 0.7), ("b", 1, 0.8), ("gone", 0, 0.1)):
        result = {"arm": arm, "seed": seed, "mAP": figure, "Rank-1": figure + 0.1, "steps": 9}
        (tmp_path / "one" / f"{arm}-{seed}.json").write_text(json.dumps(result | {"machine": "M"}))
    return tmp_path


def test_a_table(one_experiment):
    lines = experiments.table("one").splitlines()
    assert lines[2] == "| `a` | 2 | 0.600 ± 0.141 | 0.700 ± 0.141 | 0.600 |  |  |"
    assert lines[3].startswith("| `b` | 1 | 0.800 | 0.900 | 0.900 | +0.100 | ")
    assert "Why? 9 steps; M." in lines
    assert len([line for line in lines if line.startswith("|")]) == 4


def test_rows_of_another_experiment_come_first(one_experiment, monkeypatch):
    again = experiments.Experiment(
        "Again?", "demo", {}, {"c": {}}, 1, elsewhere={"constant": ("one", "a")}
    )
    monkeypatch.setitem(experiments.EXPERIMENTS, "two", again)
    assert experiments.table("two") == "No run of `two` has finished yet."
    result = json.loads((one_experiment / "one" / "a-1.json").read_text())
    (one_experiment / "two").mkdir()
    (one_experiment / "two" / "c-1.json").write_text(json.dumps(result | {"mAP": 0.75}))
    lines = experiments.table("two").splitlines()
    assert lines[2].startswith("| `constant` | 2 | 0.600 ± 0.141 |")
    assert lines[3].startswith("| `c` | 1 | 0.750 | 0.800 | 0.800 | +0.050 | ")


def test_a_run_that_is_missing_is_run_once(one_experiment, monkeypatch, tmp_path):
    trained = []
    monkeypatch.setattr(
        experiments, "train", lambda name, arm, seed, *_: trained.append((name, arm, seed))
    )
    experiments.run("one", ["a", "b"], [0, 1], 2, tmp_path / "runs", keep=True)
    assert trained == [("one", "b", 0)]


def test_files_from_elsewhere_are_named_without_their_folder(one_experiment, monkeypatch):
    """A run reads the folder of --files; what is written of the run does not say where it was."""
    experiment = experiments.Experiment("Why?", "demo", {"init.from": "FILES/w.npz"}, {"a": {}}, 1)
    given = experiments.arguments(experiment, "a", 3, "/some where")
    assert given == [
        "--config=configs/demo.py",
        "--config.init.from=/some where/w.npz",
        "--config.seed=3",
    ]
    assert experiments.arguments(experiment, "a", 3)[1] == "--config.init.from=FILES/w.npz"
    monkeypatch.setitem(experiments.EXPERIMENTS, "one", experiment)
    assert "python benchmarks/experiments.py run one --files FILES" in experiments.table("one")


@pytest.mark.parametrize("given", [[], ["--files", "nowhere"]])
def test_missing_files_end_with_a_line(given, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["experiments.py", "run", "imagenet_icons", *given])
    with pytest.raises(SystemExit):
        experiments.main()
    assert "imagenet_icons needs --files DIR, the folder of its" in capsys.readouterr().err


def test_what_is_kept_of_a_run(tmp_path):
    (tmp_path / "eval").mkdir()
    for step in (100, 20):
        figures = {"mAP": step / 200, "cmc": {"1": step / 100}}
        (tmp_path / "eval" / f"step_{step}.json").write_text(json.dumps(figures))
    log = [{"step": step, "loss": float(step)} for step in range(1, 81)] + [{"note": 1}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, log)))
    kept = experiments.read_run(tmp_path)
    assert (kept["steps"], kept["mAP"], kept["Rank-1"]) == (100, 0.5, 1.0)
    assert kept["curve"] == [[20, 0.1, 0.2], [100, 0.5, 1.0]]
    assert kept["losses"][:2] == [[2, 1.5], [4, 3.5]]
    assert len(kept["losses"]) == 40


@pytest.mark.parametrize(
    ("text", "wanted"), [("0-3", [0, 1, 2, 3]), ("4", [4]), ("1,5", [1, 5]), ("7-7", [7])]
)
def test_numbers(text, wanted):
    assert experiments.numbers(text) == wanted


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_names_settings_that_exist(name):
    experiment = EXPERIMENTS[name]
    assert (ROOT / "configs" / f"{experiment.config}.py").exists()
    for arm in experiment.arms.values():
        assert (experiment.settings | arm).keys() <= FIELDS.keys() | {"devices"}
    assert len({json.dumps(arm) for arm in experiment.arms.values()}) == len(experiment.arms)


@pytest.mark.parametrize("page", experiments.PAGES, ids=lambda page: page.stem)
def test_a_page_shows_the_results(page):
    """The page holds what `experiments.py write` would write."""
    names = re.findall(r"<!-- (\w+) -->", page.read_text())
    assert names
    for name in names:
        found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", page.read_text(), re.DOTALL)
        assert found
        assert found[1] == experiments.table(name), f"run benchmarks/experiments.py write: {name}"
