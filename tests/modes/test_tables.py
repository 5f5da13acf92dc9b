"""The mode `tables`: its runs, the files that it writes, and mistakes on the command line."""

import json
import statistics

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.configs import load_config
from support.run_main import SMALL, call_main, run_main

from batnet_jax.data.run_data import Identity, RunData, TrainingSet
from batnet_jax.errors import NotFiniteError, UserError
from batnet_jax.export.published import published_tensors
from batnet_jax.models.build import make_model
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.modes.tables import runs
from batnet_jax.workdir.run_folder import open_workdir

RESULT = {
    "dataset": "pedestrians", "split": "test", "mINP": 0.1, "same_camera": "remove",
    "num_query": 4, "num_valid_query": 4, "num_gallery": 9,
}  # fmt: skip


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
        result = {"step": config.steps, "mAP": value, "cmc": cmc, "ap": config.eval.ap}
        path.write_text(json.dumps(RESULT | result))

    @staticmethod
    def value(network, seed):
        return 0.5 + len(network) / 1000 + seed / 100


@pytest.fixture
def training(monkeypatch):
    return FakeTraining(monkeypatch)


def small_config():
    config = load_config("demo")
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


@pytest.mark.parametrize(
    "text", [b"\xff", b"[]", b"{}", b'{"cmc": {"1": "a"}}', b"[" * 10**5, None]
)
def test_a_damaged_result_is_named_and_made_again(text, training, tmp_path, capsys):
    path = tmp_path / "tables" / "aia-p2-r4-parts4" / "seed_0" / "eval" / "step_6.json"
    runs.run_table(small_config(), tmp_path, 5, [0])
    table = (tmp_path / "table_5.json").read_text()
    whole = json.loads(path.read_text())
    del whole["cmc"]["1"]
    path.write_bytes(json.dumps(whole).encode() if text is None else text)
    runs.run_table(small_config(), tmp_path, 5, [0])
    assert training.made[4:] == ["aia-p2-r4-parts4 0"]
    assert f"left out: '{path}' is damaged: evaluate" in capsys.readouterr().err
    assert (tmp_path / "table_5.json").read_text() == table
    config = path.parents[1] / "config.json"
    config.write_text("{}")
    with pytest.raises(UserError, match=r"config\."):  # no checkpoint tells the settings
        runs.run_table(small_config(), tmp_path, 5, [0])


@pytest.mark.parametrize("field", ["batch", "all"])
def test_the_rows_fit_the_training_set(training, tmp_path, capsys, field):
    """12 people and a batch of 16: all rows get the same batch; resuming keeps it."""
    config = small_config()
    config.update_from_flattened_dict({"fit": field, "batch.identities": 16})
    training.stop_at = 1
    with pytest.raises(KeyboardInterrupt):
        runs.run_table(config, tmp_path, 2, [0], {"steps"})
    said = capsys.readouterr().out
    assert said.count("chosen by the size of the training set (12 people, 96 images)") == 1
    assert ("num_epochs=" in said) == (field == "all")
    training.stop_at = None
    runs.run_table(config, tmp_path, 2, [0], {"steps"})
    assert "chosen by" not in capsys.readouterr().out
    saved = [json.loads(path.read_text()) for path in tmp_path.rglob("config.json")]
    assert len(saved) == 2
    for one in saved:
        del one["model"]
    assert saved[0] == saved[1]
    assert saved[0]["batch"]["identities"] == 12


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


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # config_flags'
def test_mistakes_are_one_line(tmp_path):
    base = ("--config=configs/demo.py", f"--workdir={tmp_path / 'run'}")
    tables = (*base, "--mode=tables", f"--config.data.dir={tmp_path / 'data'}")
    cases = [
        (tables, "needs --table: the number of the table, 1 to 7"),
        ((*tables, "--table=8"), "table=8"),
        ((*base, "--table=5"), "--table is for --mode=tables, not --mode=train"),
        ((*base, "--mode=eval", "--seeds=1"), "--seeds is for --mode=tables"),
        ((*tables, "--table=5", "--seeds=0,x"), "--seeds=0,x"),
        ((*tables, "--table=5", "--seeds=1,1"), "--seeds=1,1"),
        ((*tables, "--table=5", "--seeds="), "give different numbers"),
    ]
    for arguments, named in cases:
        status, stderr = call_main(*arguments)
        assert status == 2, (arguments, stderr)
        assert stderr.count("\n") == 1, stderr
        assert stderr.startswith("error: ")
        assert named in stderr
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
