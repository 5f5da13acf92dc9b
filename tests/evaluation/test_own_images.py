"""Queries that are in the gallery themselves: told, and left out on request."""

import json

import cv2
import numpy as np
import pytest
from support.stub_training import fake_embed, tiny_config
from support.tiny_datasets import write_tree

from batnet_jax.data.run_data import open_tests
from batnet_jax.errors import UserError
from batnet_jax.evaluation import compare, evaluate
from batnet_jax.evaluation.evaluated_run import read_run
from batnet_jax.evaluation.ranked_test import rank_test
from batnet_jax.modes import report_lists
from batnet_jax.report.summary import Measured, metrics_section
from batnet_jax.report.thumbnails import Thumbnails

PEOPLE, IMAGES = 5, 3


def write_set(folder):
    """Write a set whose query images are all in the gallery, under other names."""
    rng = np.random.default_rng(0)
    images = {
        f"{person}/{k}.png": cv2.imencode(".png", rng.integers(0, 256, (8, 4, 3)))[1].tobytes()
        for person in "abcde"
        for k in range(IMAGES)
    }
    files = {f"train/{name}": image for name, image in images.items()}
    files |= {f"query/{name}": image for name, image in images.items()}
    renamed = {f"gallery/{name[0]}/x{name[2:]}": image for name, image in images.items()}
    write_tree(folder / "mine", files | renamed)


@pytest.fixture(scope="module")
def test_set(tmp_path_factory):
    """The config and the test of such a set."""
    folder = tmp_path_factory.mktemp("own")
    write_set(folder)
    config = tiny_config(folder)
    config.data.dataset, config.data.variant = "folder", ""
    config.data.manual_dir = str(folder / "mine")
    (test,) = open_tests(config)
    return config, test


def run(config, test, workdir, capsys, **settings):
    """Evaluate mean colours; return the result, and what is printed."""
    config = config.copy_and_resolve_references()
    config.eval.update(settings)
    embed = fake_embed(None, {"params": {"w": np.ones(1)}})
    (result,) = evaluate.run_tests(config, [test], embed, step=3, workdir=workdir)
    return result, capsys.readouterr()


def test_a_set_in_itself(test_set, tmp_path, capsys):
    config, test = test_set
    extras = {"rerank": True, "single_shot": 3, "verification": True, "expand": 2}
    found, said = run(config, test, tmp_path / "all", capsys)
    assert found["cmc"]["1"] == 1
    assert "15 of 15 queries are in the gallery themselves" in said.err
    assert "'a/0.png' as 'a/x0.png'" in said.err
    assert "eval.leave_out_own=True" in said.err
    assert "leave_out_own" not in found
    left, said = run(config, test, tmp_path / "others", capsys, leave_out_own=True, **extras)
    assert "warning" not in said.err
    assert "own images left out" in said.out
    assert left["mAP"] < found["mAP"]
    assert left["cmc"]["1"] < 1
    assert (left["num_left_out"], left["leave_out_own"]) == (15, True)
    assert left["reranked"]["num_left_out"] == left["expanded"]["num_left_out"] == 15
    assert left["verification"]["num_positive"] == 15 * (IMAGES - 1)
    assert json.loads((tmp_path / "others/eval/step_3.json").read_text()) == left
    assert read_run(tmp_path / "others").result["leave_out_own"] is True
    with pytest.raises(UserError, match=r"eval\.leave_out_own=False, the other with True"):
        compare([tmp_path / "all", tmp_path / "others"])


def test_pictures_show_no_own_image(test_set):
    config, test = test_set
    config = config.copy_and_resolve_references()
    config.eval.leave_out_own = True
    embed = fake_embed(None, {"params": {"w": np.ones(1)}})
    with rank_test(config, test, embed, breakdown=True) as ranked:
        result = evaluate.make_result(config, ranked, 3)
        for shown in evaluate.sample_ranked_lists(ranked):
            assert all((shown.query.image != hit.image).any() for hit in shown.gallery)
        cards = report_lists.make_cards(ranked, {0: ["worst"], 7: ["best"]}, Thumbnails())
        for card in cards:
            listed = (*card.hits, *card.missed)
            first = next((hit.rank for hit in listed if hit.verdict == "right"), None)
            assert first == card.first_rank
    section = metrics_section([Measured(result)])
    assert "own image is left out of the gallery" in section.body
