"""The command that compares runs by the share of their maps on the person."""

import json

import mask_on_person
import pytest
from PIL import Image
from support.tiny_run import IDENTITIES, small_config

from batnet_jax.data.pedestrians.draw import LAYERS
from batnet_jax.errors import UserError
from batnet_jax.step.train_step import init_state, make_recipe
from batnet_jax.workdir import checkpoints


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the data set is prepared once."""
    return tmp_path_factory.mktemp("runs")


def write_run(folder, name, variant="tiny", **model):
    """Save a fresh network as training does."""
    config = small_config(folder)
    config.data.variant = variant
    config.model.update({"num_parts": 0, **model})
    recipe = make_recipe(config, num_identities=len(IDENTITIES), steps_per_epoch=1)
    state = init_state(recipe, tuple(config.data.image_size))
    (folder / "data").mkdir(exist_ok=True)
    with checkpoints.open_manager(folder / name) as manager:
        checkpoints.save(manager, 3, state, checkpoints.metadata(config, IDENTITIES))
    return str(folder / name)


def rows_of(text):
    """The cells of each table's rows."""
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    return [[line[2:-2].split(" | ") for line in table] for table in tables]


@pytest.mark.slow
@pytest.mark.usefixtures("short_backbone")
def test_runs_are_compared_at_the_positions_of_the_attention(folder, capsys):
    runs = [write_run(folder, "none", attention="none"), write_run(folder, "aia")]
    options = [f"--json={folder / 'out' / 'a.json'}", f"--pictures={folder / 'pictures'}"]
    mask_on_person.main([f"--runs={','.join(runs)}", "--images=7", *options])
    (table,) = rows_of(capsys.readouterr().out)
    none, aia = json.loads((folder / "out" / "a.json").read_text())
    assert [none["run"], aia["run"]] == runs
    assert none["positions"].keys() == aia["positions"].keys() == {"p2"}
    assert none["positions"]["p2"].keys() == {"before"}
    assert aia["positions"]["p2"].keys() == {"before", "mask", "excess", "after", "gain"}
    assert (none["network"]["position"], aia["network"]["position"]) == ("", "p2")
    for result in (none, aia):
        assert (result["num_image"], result["step"]) == (7, 3)
        assert result["area"].keys() == LAYERS.keys()
        assert 0 < result["positions"]["p2"]["before"]["person"]["value"] < 1
    assert table[0][:3] == ["run, step", "network", "position"]
    assert [row[:3] for row in table[2:]] == [
        ["none, 3", "no attention", "p2"], ["", "", "on others"],
        ["aia, 3", "aia, bilinear, r = 4", "p2"], ["", "", "on others"],
    ]  # fmt: skip
    assert table[2][4:] == table[3][4:] == ["-"] * 4
    after = aia["positions"]["p2"]["after"]
    assert table[4][6].startswith(f"{100 * after['person']['value']:.1f} [")
    assert table[5][6].startswith(f"{100 * after['elsewhere']['value']:.1f} [")
    assert [path.name for path in (folder / "pictures").iterdir()] == ["aia.png"]
    with Image.open(folder / "pictures" / "aia.png") as image:
        assert image.height > 2 * 256


def cell_of(value, low, high, lift=None):
    figures = {"person": {"value": value, "interval": [low, high]}}
    figures["elsewhere"] = {"value": 0.5, "interval": [0.25, 0.75]}
    return figures | ({"lift": {"value": lift, "interval": [1, 2]}} if lift else {})


def test_cells():
    share, gain = cell_of(0.3125, 0.25, 0.5, 1.25), cell_of(0.0, -0.01, 0.02)
    assert mask_on_person.cell(share) == "31.2 [25.0, 50.0] 1.25x"
    assert mask_on_person.cell(share, "elsewhere") == "50.0 [25.0, 75.0]"
    assert mask_on_person.cell(gain) == "+0.0 [-1.0, +2.0]"
    assert mask_on_person.cell(None) == "-"
    nothing = share | {"person": {"value": None, "interval": None}}
    assert mask_on_person.cell(nothing) == "-"
    assert mask_on_person.mean_cell([share, cell_of(0.3325, 0, 1, 1.0)]) == "32.2 ± 1.4"
    assert mask_on_person.mean_cell([gain, cell_of(0.02, 0, 1)]) == "+1.0 ± 1.4"
    assert mask_on_person.mean_cell([share]) == "31.2"
    assert mask_on_person.mean_cell([share, nothing]) == "-"
    assert mask_on_person.mean_cell([None]) == "-"


def result_of(run, seed, before, **network):
    shared = {"attention": "aia", "kernel": "bilinear", "reduction": 4, "position": "p2"}
    figures = cell_of(before, 0.25, 0.5, 1.25)
    return {
        "run": f"runs/{run}", "step": 9, "seed": seed, "dataset": "pedestrians", "num_image": 1234,
        "num_identity": 60, "level": 0.95, "area": {"person": 0.25}, "network": shared | network,
        "positions": {"p2": {"before": figures, "gain": cell_of(0.01, 0, 0.5)}},
    }  # fmt: skip


def test_runs_of_one_network_are_averaged(capsys):
    one, other = result_of("a", 0, 0.25), result_of("b", 0, 0.5, kernel="linear")
    mask_on_person.print_tables([one, other])
    assert len(rows_of(capsys.readouterr().out)) == 1
    mask_on_person.print_tables([one, other, result_of("c", 1, 0.35)])
    text = capsys.readouterr().out
    assert "1,234 images of 60 people" in text
    assert "share of the area, 25.0%" in text
    single, means = rows_of(text)
    assert len(single) == 2 + 2 * 3
    assert means[2] == [
        "aia, bilinear, r = 4", "p2", "2", "30.0 ± 7.1", "-", "-", "-", "+1.0 ± 0.0",
    ]  # fmt: skip
    assert means[3] == ["aia, linear, r = 4", "p2", "1", "50.0", "-", "-", "-", "+1.0"]


def test_networks_are_told_apart():
    network = {"attention": "plain", "kernel": "linear", "reduction": 8, "position": "p3"}
    assert mask_on_person.describe(network) == "plain, linear, r = 8"
    assert mask_on_person.describe(network | {"position": "p2,p3"}).endswith("r = 8, at p2,p3")
    assert mask_on_person.describe(network | {"attention": "none"}) == "no attention"


def test_runs_that_cannot_be_compared_are_refused(folder, monkeypatch):
    monkeypatch.setattr(mask_on_person, "measure", None)  # refused before
    one = write_run(folder, "one", attention="none")
    with pytest.raises(UserError, match="holds no checkpoint"):
        mask_on_person.main([f"--runs={folder / 'nothing'}"])
    monkeypatch.setattr(mask_on_person, "is_drawn", lambda _: False)
    with pytest.raises(UserError, match="one' is not tested on pedestrians, and only drawn"):
        mask_on_person.main([f"--runs={one}"])
    monkeypatch.undo()
    monkeypatch.setattr(mask_on_person, "measure", None)
    first, other = (mask_on_person.open_run(folder / "one", 0, count) for count in (5, 6))
    with pytest.raises(UserError, match=r"'.*one' and '.*one' are tested on different images"):
        mask_on_person.check_images([first, first, other])
