"""The mode `tables`: the paper's figures, the planned runs, the written files."""

import json
import re
import runpy
import statistics

import numpy as np
import pytest
from safetensors.numpy import save_file
from support import needs
from support.paths import ROOT
from support.run_main import SMALL, call_main, run_main

from batnet_jax.config import default_config
from batnet_jax.data.run_data import Identity, RunData, TrainingSet
from batnet_jax.errors import NotFiniteError, UserError
from batnet_jax.export.published import published_tensors
from batnet_jax.models.build import make_model
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.modes.tables import TABLES, runs, text
from batnet_jax.training.run_length import RunLength
from batnet_jax.validation import validate
from batnet_jax.workdir.run_folder import open_workdir

CONFIGS = sorted((ROOT / "configs").glob("*.py"))
CUHK03 = ["cuhk03:labeled", "cuhk03:detected"]
ABLATION = ["market1501", "cuhk03:detected"]
# Typed from the paper a second time: data sets in the order of the columns, then rows.
PRINTED = {
    1: (CUHK03, "72.0 74.2 68.7 71.4 / 76.1 78.6 73.2 76.2"),
    2: (["market1501"], "85.5 94.1 98.2 99.1 / 87.4 95.1 98.2 98.9"),
    3: (["dukemtmc_reid"], "75.8 86.1 93.9 95.6 / 77.3 87.7 94.7 96.3"),
    4: (
        ["msmt17:v1"],
        "39.3 65.8 80.5 85.3 / 43.1 69.5 82.7 87.2 / 50.4 74.1 86.4 89.7 / 56.8 79.5 89.1 91.1",
    ),
    5: (
        ABLATION,
        "80.7 91.6 64.5 67.1 / 83.4 93.2 67.4 70.6 / 85.1 93.8 67.8 71.1 / 87.4 95.1 73.2 76.2",
    ),
    6: (
        ABLATION,
        "85.1 93.8 67.8 71.1 / 86.8 94.4 71.4 73.2 / 87.4 95.1 73.2 76.2 / 85.5 93.9 69.8 72.9 / "
        "85.3 94.0 68.9 70.8",
    ),
    7: (
        ABLATION,
        "85.1 93.8 67.8 71.1 / 87.1 94.9 72.3 75.4 / 87.4 95.1 72.6 74.9 / 87.2 94.5 73.2 76.2 / "
        "86.9 94.4 72.5 75.6 / 86.9 94.1 72.1 74.8",
    ),
}


def load(name):
    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()


def figures(number, datasets):
    """Return the figures of a table's rows, from left to right."""
    return [[v for name in datasets for v in row.paper[name]] for row in TABLES[number].rows]


@pytest.mark.parametrize("number", PRINTED)
def test_figures_equal_the_typed_ones(number):
    datasets, printed = PRINTED[number]
    assert TABLES[number].datasets == datasets
    wanted = [[float(v) for v in row.split()] for row in printed.split("/")]
    assert figures(number, datasets) == wanted
    for row in TABLES[number].rows:
        assert {len(v) for v in row.paper.values()} == {len(TABLES[number].metrics)}


@pytest.mark.parametrize("number", PRINTED)
def test_figures_are_in_the_text_of_the_paper(number):
    paper = needs.shared("paper", "bat-net-iccv2019.txt").read_text()
    content = paper.split(f"Table {number}. E")[1].split(f"Table {number + 1}. E")[0]
    rows = [
        [float(v) for v in found]
        for line in content.splitlines()
        if len(found := re.findall(r"\d+\.\d(?=\s|$)", line)) == 4
    ]
    datasets, _ = PRINTED[number]
    places = [rows.index(wanted) for wanted in figures(number, datasets)]
    assert places == list(range(places[0], places[0] + len(places)))


def test_same_network_has_the_same_figures_in_all_tables():
    """Rows (iii) and (iv) of Table 5 are also in Tables 6 and 7 and in the data sets' tables."""
    config = load("market1501")
    config.lock()
    seen = {}
    for table in TABLES.values():
        for row in table.rows:
            own = runs.row_config(config, row, 0)
            for dataset, values in row.paper.items():
                if dataset == "market1501":
                    name = runs.network_name(own)
                    short = values[:2]
                    assert seen.setdefault(name, short) == short, (name, row)
    assert seen["aia-p2-r4-parts4"] == (87.4, 95.1)
    assert seen["none-parts4"] == (85.1, 93.8)
    assert len(seen) == 2 + 1 + 4 + 4 + 1  # Fa, Fa + Bi; Fa + Fp; p1..p4; r = 2, 8, 16, 32; plain


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_row_is_valid_with_every_config(path):
    config = load(path.stem)
    if path.stem == "market1501_resnet50":  # has no parts, like its source; tables need parts
        with pytest.raises(UserError, match="num_parts=0 leaves no parts for the rows"):
            runs.plan_runs(config, path, TABLES[next(iter(TABLES))], [0])
        config.model.num_parts = 4
    for table in TABLES.values():
        names = set()
        for row in table.rows:
            own = runs.row_config(config, row, 7)
            validate(own)
            assert own.seed == 7
            assert {k: own.model[k] for k in row.overrides} == row.overrides
            names.add(runs.network_name(own))
        assert len(names) == len(table.rows)
    assert config.seed == 0  # the user's config is unchanged


class FakeTraining:
    """Replace `train` by writing its files, with figures that depend on network and seed."""

    def __init__(self, monkeypatch):
        self.made = []
        self.stop_at = None
        self.explode = ""
        images = np.arange(96)
        identities = [Identity("pedestrians", pid) for pid in range(12)]
        data = RunData(TrainingSet(images, np.repeat(np.arange(12), 8), identities), [], [])  # type: ignore
        self.opened = 0

        def open_run_data(config):
            self.opened += 1
            return data

        monkeypatch.setattr(runs, "open_run_data", open_run_data)
        monkeypatch.setattr(runs, "train", self.train)

    def train(self, config, data, workdir):
        if len(self.made) == self.stop_at:
            raise KeyboardInterrupt
        self.made.append(f"{workdir.parent.name} {config.seed}")
        open_workdir(config, workdir, data.train.identities)
        if self.explode and self.explode in str(workdir):
            raise NotFiniteError("the loss is nan at step 1")
        value = self.value(workdir.parent.name, config.seed)
        (workdir / "eval").mkdir(exist_ok=True)
        cmc = {"1": value + 0.1, "5": value + 0.2, "10": value + 0.3}
        path = workdir / "eval" / f"step_{config.steps}.json"
        path.write_text(json.dumps({"mAP": value, "cmc": cmc, "ap": config.eval.ap}))

    @staticmethod
    def value(network, seed):
        return 0.5 + len(network) / 1000 + seed / 100


@pytest.fixture
def training(monkeypatch):
    return FakeTraining(monkeypatch)


def small_config():
    config = load("demo")
    config.batch.identities = 4
    config.steps = 6
    return config


def test_a_killed_table_resumes(training, tmp_path, capsys):
    training.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        runs.run_table(small_config(), tmp_path, 5, [0, 1])
    assert training.made == ["none-parts0 0", "aia-p2-r4-parts0 0"]
    rows = json.loads((tmp_path / "table_5.json").read_text())["rows"]
    assert [row["seeds"] for row in rows] == [[0], [0], [], []]
    assert rows[3]["ours"] == {"mAP": None, "R-1": None}
    assert (tmp_path / "table_5.md").read_text().count("no result yet") == 4
    training.stop_at = None
    runs.run_table(small_config(), tmp_path, 5, [0, 1])
    names = ["none-parts0", "aia-p2-r4-parts0", "none-parts4", "aia-p2-r4-parts4"]
    assert training.made == [f"{name} {seed}" for seed in (0, 1) for name in names]
    assert "2 of 8 runs are finished and kept" in capsys.readouterr().out
    runs.run_table(small_config(), tmp_path, 5, [0, 1])
    assert len(training.made) == 8
    out = capsys.readouterr().out
    assert "8 of 8 runs are finished" in out
    assert (tmp_path / "table_5.md").read_text() in out
    # Tables 6 and 7 share two rows with Table 5.
    runs.run_table(small_config(), tmp_path, 6, [0])
    assert training.made[8:] == [f"aia-{p}-r4-parts4 0" for p in ("p1", "p3", "p4")]
    runs.run_table(small_config(), tmp_path, 7, [0])
    assert training.made[11:] == [f"aia-p2-r{r}-parts4 0" for r in (2, 8, 16, 32)]
    assert training.opened == 5  # once a command, whatever the number of rows


def test_written_files(training, tmp_path):
    seeds = [0, 1, 5]
    path = runs.run_table(small_config(), tmp_path, 5, seeds)
    contents = json.loads((tmp_path / "table_5.json").read_text())
    assert (contents["table"], contents["steps"], contents["ap"]) == (5, 6, "precision")
    assert (contents["seeds"], contents["dataset"]) == (seeds, "pedestrians:demo")
    assert (contents["paper_dataset"], contents["comparable"]) == ("market1501", False)
    assert contents["versions"].keys() == {"jax", "batnet_jax"}
    assert "cpu" in contents["device"]
    row = contents["rows"][3]
    assert row["overrides"] == {"attention": "aia"}
    assert row["paper"] == {"mAP": 0.874, "R-1": 0.951}
    values = [training.value("aia-p2-r4-parts4", seed) for seed in seeds]
    ours = row["ours"]["mAP"]
    assert ours["values"] == values
    assert ours["mean"] == pytest.approx(sum(values) / 3)
    assert ours["std"] == pytest.approx(statistics.stdev(values))
    assert (tmp_path / row["folder"] / "seed_5" / "eval" / "step_6.json").is_file()
    lines = path.read_text().splitlines()
    # 51.6 plus the seeds 0, 1, 5: the mean adds 2, the deviation is sqrt((4 + 1 + 9) / 2) = 2.65.
    assert "| (iv) BAT-net w/ AiA | 3 | 53.6 ± 2.6 | 87.4 | 63.6 ± 2.6 | 95.1 |" in lines
    assert lines[2].startswith("| network | runs | mAP, ours | mAP, paper, Market-1501 | R-1, ours")
    whole = "\n".join(lines)
    for said in (
        *("only the order of the rows can be compared", "`model.width` 0.25 instead of 1.0"),
        *("`data.image_size` (128, 64) instead of (256, 128)", "instead of 300 epochs"),
        *("start at random, not from ImageNet's", "seeds 0, 1, 5", "other authors"),
    ):
        assert said in whole


def test_one_seed_has_no_spread(training, tmp_path):
    path = runs.run_table(small_config(), tmp_path, 5, [0])
    row = json.loads(path.with_suffix(".json").read_text())["rows"][0]
    assert row["ours"]["mAP"]["std"] is None
    assert "| (iv) BAT-net w/ AiA | 1 | 51.6 | 87.4 | 61.6 | 95.1 |" in path.read_text()


def test_a_loss_that_is_not_finite_is_reported_and_other_rows_run(training, tmp_path):
    training.explode = "none-parts4"
    with pytest.raises(NotFiniteError, match=r"1 of 4 runs failed: \(iii\) Fa \+ Fp, seed 0"):
        runs.run_table(small_config(), tmp_path, 5, [0])
    assert len(training.made) == 4
    assert "Failed: (iii) Fa + Fp, seed 0: the loss is nan" in (tmp_path / "table_5.md").read_text()
    assert json.loads((tmp_path / "table_5.json").read_text())["rows"][3]["seeds"] == [0]


def test_other_settings_are_refused_or_run_again(training, tmp_path):
    runs.run_table(small_config(), tmp_path, 2, [0])
    other = small_config()
    other.learning_rate = 1.0
    with pytest.raises(UserError, match=r"config\.learning_rate=0\.003, not 1\.0"):
        runs.run_table(other, tmp_path, 2, [0])
    trapezoid = small_config()
    trapezoid.eval.ap = "trapezoid"
    runs.run_table(trapezoid, tmp_path, 2, [0])  # evaluated again, by the other AP
    assert len(training.made) == 4
    (tmp_path / "tables" / "aia-p2-r4-parts4" / "seed_0" / "checkpoints" / "9").mkdir(parents=True)
    with pytest.raises(UserError, match="trained for 9 steps, more than 6"):
        runs.run_table(trapezoid, tmp_path, 2, [0])
    alone = small_config()
    alone.model.num_parts = 0
    with pytest.raises(UserError, match=r"config.model.num_parts=0 leaves no parts"):
        runs.run_table(alone, tmp_path, 5, [0])
    assert len(training.made) == 4


def test_the_papers_own_settings_differ_in_nothing_but_the_weights():
    """Each config of the paper is compared in each table of its data set."""
    length = RunLength(steps_per_epoch=10, total=3000)
    for name, dataset in (
        *(("market1501", "market1501"), ("dukemtmc", "dukemtmc_reid"), ("msmt17", "msmt17:v1")),
        *(("cuhk03_labeled", "cuhk03:labeled"), ("cuhk03_detected", "cuhk03:detected")),
    ):
        tables = [table for table in TABLES.values() if dataset in table.datasets]
        assert tables
        for table in tables:
            said = text.describe(load(name), table, length)
            assert (said.data, said.paper_dataset, said.comparable) == (dataset, dataset, True)
            assert said.differences == ["the weights start at random, not from ImageNet's"]


def test_other_data_and_settings_are_named():
    config = default_config()
    config.data.train = ("market1501", "msmt17:v2")
    config.eval.datasets = ("cuhk03",)
    config.eval.same_camera = "keep"
    config.model.reduction = 8
    config.init["from"] = "googlenet.pth"
    said = text.describe(config, TABLES[6], RunLength(10, 3000))
    assert said.data == "trained on market1501, msmt17:v2; tested on cuhk03:labeled"
    assert not said.comparable
    assert sorted(said.differences) == [
        "`eval.same_camera` keep instead of remove",
        "`model.reduction` 8 instead of 4",
        "the weights start from 'googlenet.pth'",
    ]
    varied = text.describe(config, TABLES[7], RunLength(10, 3000))  # r is what Table 7 varies
    assert not any("reduction" in difference for difference in varied.differences)


def test_mistakes_are_one_line(tmp_path):
    base = ("--config=configs/demo.py", f"--workdir={tmp_path / 'run'}")
    tables = (*base, "--mode=tables", f"--config.data.dir={tmp_path / 'data'}")
    cases = [
        (tables, "--table: a number of 1..7"),
        ((*tables, "--table=8"), "table=8"),
        ((*base, "--table=5"), "--table is for --mode=tables, not --mode=train"),
        ((*base, "--mode=eval", "--seeds=1"), "--seeds is for --mode=tables"),
        ((*tables, "--table=5", "--seeds=0,x"), "--seeds=0,x"),
        ((*tables, "--table=5", "--seeds=1,1"), "--seeds=1,1"),
        ((*tables, "--table=5", "--seeds="), "give different numbers"),
    ]
    for arguments, named in cases:
        status, message = call_main(*arguments)
        assert (status, message.count("\n")) == (2, 1), (arguments, message)
        assert message.startswith("error: ")
        assert named in message
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_table_5_from_end_to_end(tmp_path):
    command = (
        *("--config=configs/demo.py", f"--config.data.dir={tmp_path / 'data'}", *SMALL),
        *("--config.steps=2", f"--workdir={tmp_path / 'run'}", "--mode=tables", "--table=5"),
    )
    process = run_main(*command, "--seeds=3")
    assert process.returncode == 0, process.stderr
    rows = json.loads((tmp_path / "run" / "table_5.json").read_text())["rows"]
    for row in rows:
        folder = tmp_path / "run" / row["folder"] / "seed_3"
        result = json.loads((folder / "eval" / "step_2.json").read_text())
        assert row["ours"]["mAP"]["values"] == [result["mAP"]]
        assert row["ours"]["R-1"]["values"] == [result["cmc"]["1"]]
        assert json.loads((folder / "config.json").read_text())["seed"] == 3
    assert len({row["folder"] for row in rows}) == 4
    assert "instead of 4" in (tmp_path / "run" / "table_5.md").read_text()  # one part
    before = (tmp_path / "run" / "table_5.md").read_text()
    again = run_main(*command, "--seeds=3")
    assert again.returncode == 0, again.stderr
    assert "4 of 4 runs are finished and kept" in again.stdout
    assert (tmp_path / "run" / "table_5.md").read_text() == before


def test_weights_that_do_not_fit_all_rows_are_refused_at_once(training, tmp_path):
    """A whole network fits one row; a backbone would fit all rows."""
    config = small_config()
    config.model.part_sampling = "published"
    variables = draw_variables(make_model(config, 2), tuple(config.data.image_size), 0)
    config.init["from"] = str(tmp_path / "w.safetensors")
    save_file(published_tensors(variables), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"not the one of row \(ii\) p1: start .* from a backbone"):
        runs.run_table(config, tmp_path / "run", 6, [0])
    assert training.made == []
    assert not (tmp_path / "run").exists()
