"""Rows of what is reached without training, beside the figures of an evaluation."""

import json

import numpy as np
import pytest
from support.stub_training import fake_embed, tiny_config
from support.variants import few

from batnet_jax.data.run_data import open_tests
from batnet_jax.evaluation import baselines, evaluate
from batnet_jax.evaluation.embed import embed_on_devices
from batnet_jax.models import BATNet

HALVES = fake_embed(None, {"params": {"w": np.ones(1)}})
"""Mean colours of the upper and lower half, which find most of the drawn people."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    config = tiny_config(folder)
    return config, open_tests(config)


@pytest.fixture
def run(data, tmp_path, capsys):
    """Return a function that evaluates an embedding; it returns the result and what was said."""
    calls = []

    def make_untrained():
        calls.append(1)
        return lambda images: HALVES(images[:, ::-1])[:, :2]  # finds less than all of it

    def evaluate_once(embed=HALVES, step=3, untrained=make_untrained, **fields):
        config = data[0].copy_and_resolve_references()
        config.update_from_flattened_dict(fields)
        (result,) = evaluate.run_tests(
            config, data[1], embed, step=step, workdir=tmp_path, make_untrained=untrained
        )
        return result, *capsys.readouterr()

    evaluate_once.calls, evaluate_once.workdir = calls, tmp_path
    return evaluate_once


def rows_of(said):
    """Return the figures of the rows of a table by their names; of mAP."""
    rows = [line.split("%") for line in said.splitlines() if line.count("%") == 6]
    return {row[-1].strip(): float(row[0]) for row in rows}


def test_each_evaluation_has_the_rows(run):
    result, said, _ = run()
    rows = rows_of(said)
    assert list(rows) == ["step 3", "untrained net", "raw pixels", "chance"]
    assert rows["step 3"] == pytest.approx(100 * result["mAP"], abs=0.06)
    assert rows["chance"] < rows["raw pixels"]
    assert json.loads((run.workdir / "eval" / "step_3.json").read_text()) == result
    assert not {"chance", "baselines"} & result.keys()


def test_a_row_is_what_an_evaluation_of_the_same_embedding_gives(run):
    result, _, _ = run(untrained=lambda: HALVES)
    kept = json.loads((run.workdir / baselines.KEPT).read_text())
    figures = kept["pedestrians test"]["figures"]["untrained net"]
    assert figures == {name: result[name] for name in ("mAP", "mINP", "cmc")}
    pixels, _, _ = run(baselines.raw_pixels)
    assert kept["pedestrians test"]["figures"]["raw pixels"]["mAP"] == pixels["mAP"]


def test_the_evaluation_before_is_a_row(run):
    run(step=3)
    first, _, _ = run(baselines.raw_pixels, step=5)
    _, said, _ = run(step=9)
    rows = rows_of(said)
    assert list(rows)[:2] == ["step 9", "step 5, evaluated before"]
    assert rows["step 5, evaluated before"] == pytest.approx(100 * first["mAP"], abs=0.06)
    _, said, _ = run(step=9, **{"eval.ap": "trapezoid"})  # another convention: no row
    assert list(rows_of(said)) == ["step 9", "untrained net", "raw pixels", "chance"]


def test_they_are_computed_once_for_a_test_and_its_settings(run):
    run(step=3)
    _, said, _ = run(step=5)
    assert (len(run.calls), "untrained net" in said) == (1, True)
    for number, fields in enumerate(({"seed": 4}, {"eval.ap": "trapezoid"}, {"model.width": 0.5},
                                     {"data.image_size": (32, 16)}), 2):  # fmt: skip
        run(step=5, **fields)
        assert len(run.calls) == number
    run(step=5, **{"eval.batch": 7, "learning_rate": 1.0, "data.image_size": (32, 16)})
    assert len(run.calls) == 5


@pytest.mark.parametrize(
    "text",
    few(["", "{", "[]", "3", '{"pedestrians test": 3}', '{"pedestrians test": {"key": "KEY"}}',
         '{"pedestrians test": {"key": "KEY", "figures": {"chance": {"mAP": 7}}}}',
         '{"pedestrians test": {"key": "KEY", "figures": {"chance": null}}}'], keep=[1, 4, 6]),
)  # fmt: skip
def test_a_damaged_file_is_made_anew(run, text):
    _, first, _ = run()
    path = run.workdir / baselines.KEPT
    good = path.read_text()
    path.write_text(text.replace("KEY", json.loads(good)["pedestrians test"]["key"]))
    _, again, _ = run()
    assert (again, len(run.calls), path.read_text()) == (first, 2, good)


def test_a_network_below_a_baseline_is_warned_of(run):
    _, said, told = run(lambda images: HALVES(images)[:, :1] * 0 + 1)  # all alike
    rows = rows_of(said)
    assert rows["step 3"] < rows["raw pixels"]
    told = told.splitlines()[-1]
    ours, theirs = rows["step 3"], rows["raw pixels"]
    assert told.startswith(f"warning: pedestrians, step 3: the network ({ours}% mAP, ")
    assert f"raw pixels ({theirs}% mAP, " in told.partition(" is below ")[2]
    assert "docs/weights.md" in told


def test_a_network_above_them_is_not(run):
    figures = {"mAP": 0.5, "cmc": {"1": 0.5}, "dataset": "d", "split": "test", "step": 1}
    equal = {"chance": {"mAP": 0.5, "cmc": {"1": 0.5}}}
    assert evaluate.warn_of_baselines(figures, equal) == ""
    by_rank = {"raw pixels": {"mAP": 0.4, "cmc": {"1": 0.6}}}
    told = evaluate.warn_of_baselines(figures, by_rank)
    assert "(50.0% mAP, 50.0% Rank-1) is below raw pixels (40.0% mAP, 60.0% Rank-1): " in told


def test_an_untrained_net_that_is_not_finite_is_left_out(run):
    _, said, _ = run(untrained=lambda: lambda images: HALVES(images) * np.float32(np.nan))
    assert list(rows_of(said)) == ["step 3", "raw pixels", "chance"]


def test_raw_pixels_are_means_of_blocks_less_the_images_mean():
    images = np.zeros((2, 32, 16, 3), np.uint8)  # 2 x 2 blocks leave 16 x 8 pixels
    images[1, :2, :2] = 255
    found = baselines.raw_pixels(images).reshape(2, 16, 8, 3)
    assert (found[0] == 0).all()
    mean = 1 / 128
    assert found[1, 0, 0] == pytest.approx(1 - mean)
    assert found[1, 0, 1] == pytest.approx(-mean)


@pytest.mark.parametrize(
    ("size", "numbers"),
    [((256, 128), 128), ((128, 64), 128), ((96, 96), 144), ((16, 16), 256), ((16, 4096), 256)],
)
def test_raw_pixels_are_few(size, numbers):
    assert baselines.raw_pixels(np.zeros((1, *size, 3), np.uint8)).shape == (1, 3 * numbers)


def test_the_untrained_net_is_not_compiled_again():
    """The same network with other variables runs the same program."""
    assert embed_on_devices(BATNet(3, width=0.5)) is embed_on_devices(BATNet(3, width=0.5))
    assert embed_on_devices(BATNet(3, width=0.5)) is not embed_on_devices(BATNet(3, width=0.25))
