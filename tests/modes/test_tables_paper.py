"""The paper's tables: their figures, their rows, and the settings that differ from the paper's."""

import re

import pytest
from support import needs
from support.configs import load_config
from support.paths import ROOT

from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.modes.tables import TABLES, runs, text
from batnet_jax.training.run_length import RunLength
from batnet_jax.validation import validate

CONFIGS = sorted((ROOT / "configs").glob("*.py"))
WITHOUT_PARTS = ("market1501_resnet50", "market1501_osnet", "market1501_sbs", "market1501_vit")
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
    config = load_config("market1501")
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
    config = load_config(path.stem)
    if path.stem in WITHOUT_PARTS:  # like their sources; tables need parts
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
            said = text.describe(load_config(name), table, length)
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
