"""Comparisons of drawn runs: figures, groups of seeds, and what is refused."""

import json

import numpy as np
import pytest
from support.evaluated_runs import (
    FEW,
    SETS,
    STEP,
    draw_ranks,
    refused,
    write_evaluation,
    write_run,
)
from support.fuzzing import limits as limits

from batnet_jax.errors import UserError
from batnet_jax.evaluation import compare
from batnet_jax.evaluation.evaluated_run import read_run


def test_figures_by_hand(tmp_path):
    """Four queries of three people; the last query has no match."""
    pids = np.array([7, 7, 8, 9])
    for name, first_rank, precision in (
        ("a", [1, 2, 4, 0], [1.0, 0.5, 0.25, np.nan]),
        ("b", [1, 1, 2, 0], [0.5, 1.0, 0.5, np.nan]),
    ):
        run = write_run(tmp_path / name)
        ranks = np.array(first_rank), np.array(precision)
        write_evaluation(run, *ranks, pids=pids)
    found = compare([tmp_path / "a", tmp_path / "b"], **FEW)
    assert [run["name"] for run in found["runs"]] == ["a", "b"]
    assert [run["mAP"]["value"] for run in found["runs"]] == pytest.approx([1.75 / 3, 2 / 3])
    assert [run["rank1"]["value"] for run in found["runs"]] == pytest.approx([1 / 3, 2 / 3])
    (row,) = found["differences"]
    assert row["run"] == "b"
    assert row["mAP"]["value"] == pytest.approx(0.25 / 3)
    # Two people: samples are person 7 twice (mean 0), one of each (0.25 / 3), or 8 twice (0.25).
    assert (row["mAP"]["low"], row["mAP"]["high"]) == (0, 0.25)
    # Only one person has a difference as a whole, and both of its signs are as far from 0.
    assert (row["mAP"]["p"], row["rank1"]["p"]) == (1, 1)
    assert found["method"] == {
        "unit": "identity", "units": 2, "samples": 200, "seed": 0, "level": 0.95
    }  # fmt: skip
    assert found["test"] == {
        "dataset": "people", "split": "test", "num_query": 4, "num_valid_query": 3,
        "num_gallery": 300, "ap": "precision", "same_camera": "remove", "multi_query": "none",
        "sets": SETS,
    }  # fmt: skip
    single = compare([tmp_path / "a", tmp_path / "b"], unit="query", samples=2000)
    assert single["method"]["units"] == 3
    own = single["differences"][0]["mAP"]
    assert (own["low"], own["high"]) == (-0.5, 0.5)  # thrice the same query: 1 of 27 samples each


def test_p_values_are_corrected_for_the_runs(tmp_path):
    runs = [write_run(tmp_path / str(i), seed=i, skill=0.5 + 0.02 * i) for i in range(4)]
    found = compare(runs, **FEW)
    for figure in ("mAP", "rank1"):
        p, corrected = zip(
            *((row[figure]["p"], row[figure]["p_holm"]) for row in found["differences"]),
            strict=True,
        )
        order = np.argsort(p, kind="stable")
        assert corrected[order[0]] == min(1, 3 * p[order[0]])
        assert corrected[order[2]] >= p[order[2]]
        alone = compare([runs[0], runs[1 + order[0]]], **FEW)["differences"][0][figure]
        assert (alone["p"], alone["p_holm"]) == (p[order[0]], p[order[0]])


def test_the_same_arguments_give_the_same_result_and_json_holds_it(pair):
    first, second = compare(pair), compare([str(run) for run in pair])
    assert json.loads(json.dumps(first)) == first == second


def test_runs_that_differ_in_the_seed_alone_are_a_group(tmp_path):
    plain = {"model.attention": "plain"}
    runs = [
        write_run(tmp_path / "aia" / "0", seed=0, settings={"data.dir": "/elsewhere"}),
        write_run(tmp_path / "plain" / "1", seed=1, settings=plain),
        write_run(tmp_path / "aia" / "1", seed=1, settings={"log.every_steps": 7}),
        write_run(tmp_path / "plain" / "0", seed=0, settings=plain, skill=0.6),
        write_run(tmp_path / "aia" / "2", seed=2),
        write_run(tmp_path / "longer", seed=0, settings={"num_epochs": 301}),
        write_run(tmp_path / "later", seed=0, steps=(200, STEP + 1)),
    ]
    found = compare(runs, **FEW)
    assert [run["group"] for run in found["runs"]] == [0, 1, 0, 1, 0, 2, 3]
    assert [group["name"] for group in found["groups"]] == [
        "aia/0, aia/1, aia/2", "plain/1, plain/0", "longer", "later",
    ]  # fmt: skip
    value = {run["name"]: run["mAP"]["value"] for run in found["runs"]}
    aia, plain_group, longer = found["groups"][:3]
    assert (aia["seeds"], plain_group["seeds"]) == ([0, 1, 2], [1, 0])
    assert aia["mAP"]["mean"] == pytest.approx(np.mean([value[f"aia/{i}"] for i in range(3)]))
    assert aia["mAP"]["std"] == pytest.approx(np.std([value[f"aia/{i}"] for i in range(3)], ddof=1))
    assert longer["mAP"] == {"mean": value["longer"], "std": None, "values": [value["longer"]]}
    # Groups of one seed, which the first shares, have no spread to compare with.
    (row,) = found["seed_differences"]
    assert (row["group"], row["seeds"]) == (1, [0, 1])
    by_seed = [value[f"plain/{i}"] - value[f"aia/{i}"] for i in (0, 1)]
    assert row["mAP"]["mean"] == pytest.approx(np.mean(by_seed))
    assert row["mAP"]["p"] == row["mAP"]["p_holm"]
    assert [(s["field"], s["changes_weights"]) for s in found["settings"]] == [
        ("seed", True), ("num_epochs", True), ("data.dir", False), ("model.attention", True),
        ("log.every_steps", False),
    ]  # fmt: skip
    attention = found["settings"][3]["values"]
    assert attention == ["aia", "plain", "aia", "plain", "aia", "aia", "aia"]


def test_a_seed_that_ran_twice_counts_once(tmp_path):
    runs = [
        write_run(tmp_path / name, seed=seed, skill=skill)
        for name, seed, skill in (("a", 0, 0.5), ("again", 0, 0.6), ("b", 1, 0.5))
    ]
    (group,) = compare(runs, **FEW)["groups"]
    a, again, b = (read_run(run).result["mAP"] for run in runs)
    assert group["seeds"] == [0, 1]
    assert group["mAP"]["values"] == pytest.approx([(a + again) / 2, b])


def test_a_run_older_than_a_field_has_its_default(pair):
    saved = json.loads((pair[1] / "config.json").read_text())
    del saved["model"]["kernel"], saved["warmup_epochs"]
    saved["model"]["forgotten"] = [1]
    (pair[1] / "config.json").write_text(json.dumps(saved))
    settings = compare(pair, **FEW)["settings"]
    assert settings == [
        {"field": "model.forgotten", "values": [None, [1]], "changes_weights": True}
    ]


def test_a_run_without_settings_is_a_group_of_its_own(pair):
    """An imported checkpoint that was evaluated has no config.json."""
    (pair[1] / "config.json").unlink()
    found = compare(pair, **FEW)
    assert [run["seed"] for run in found["runs"]] == [0, None]
    assert [run["group"] for run in found["runs"]] == [0, 1]
    assert found["settings"] == found["seed_differences"] == []


def test_the_latest_evaluation_of_each_run_is_compared(tmp_path):
    runs = [write_run(tmp_path / "a", steps=(9, 10, 200)), write_run(tmp_path / "b", steps=(9, 10))]
    assert [run["step"] for run in compare(runs, **FEW)["runs"]] == [200, 10]
    assert [run["step"] for run in compare(runs, step=9, **FEW)["runs"]] == [9, 9]
    refused("'.*/b' holds no evaluation of step 200", *runs, step=200)


def test_a_run_with_several_tests(pair):
    for run in pair:
        for title, stem in (("market", f"step_{STEP}_market"), ("people val", f"step_{STEP}_val")):
            dataset, _, split = title.partition(" ")
            write_evaluation(
                run, *draw_ranks(5, queries=20), stem=stem, dataset=dataset, split=split or "test"
            )
    for title, queries in ((None, 40), ("people", 40), ("market", 20), ("people val", 20)):
        assert compare(pair, test=title, **FEW)["test"]["num_query"] == queries
    message = refused("holds no evaluation on duke: choose from", *pair, test="duke")
    assert "people, people val, market" in message


# --- what is refused ------------------------------------------------------------------------------


def test_one_run_cannot_be_compared(tmp_path):
    refused("'a' alone cannot be compared: name the workdirs of two or more runs", "a")
    refused("nothing cannot be compared")
    with pytest.raises(UserError, match="'a' alone"):
        compare("a")


def test_a_run_is_compared_once(pair, monkeypatch):
    link = pair[0].with_name("link")
    link.symlink_to(pair[0])
    monkeypatch.chdir(pair[0])
    for again in (pair[0], f"{pair[0]}/", link, "."):
        refused(r"' are the same run: name each run once", *pair, again)


def test_a_bucket_is_no_folder():
    refused("'gs://bucket/run' is not a folder: copy the run", "a", "gs://bucket/run")


@pytest.mark.parametrize("name", ["query", "gallery"])
def test_other_images(pair, name):
    own = {"images": 17, "labels": "ee", "content": "ff"}
    write_evaluation(pair[1], *draw_ranks(0), sets=SETS | {name: own})
    message = refused(f"because their {name} sets differ", *pair)
    assert f"{SETS[name]['images']} images of people ({SETS[name]['labels']}) and 17" in message
    assert all(f"'{run}'" in message for run in pair)


def test_other_contents_under_the_same_names(pair):
    """CUHK03's detected and labelled boxes, for example."""
    gallery = SETS["gallery"] | {"content": "other"}
    write_evaluation(pair[1], *draw_ranks(0), sets=SETS | {"gallery": gallery})
    refused(r"same names and labels but other contents \(dd and other\)", *pair)


def test_more_images_of_the_queries(pair):
    write_evaluation(pair[1], *draw_ranks(0), sets=SETS | {"more_query": SETS["query"]})
    refused("only one of them was tested with more_query images", *pair)


@pytest.mark.parametrize(
    ("field", "value"), [("ap", "trapezoid"), ("same_camera", "keep"), ("multi_query", "max")]
)
def test_another_protocol(pair, field, value):
    write_evaluation(pair[1], *draw_ranks(0), **{field: value})
    refused(f"the first was evaluated with eval.{field}=.*, the other with {value}", *pair)


def test_the_same_images_of_a_data_set_with_another_name(pair):
    write_evaluation(pair[1], *draw_ranks(3), dataset="people-2")
    assert len(compare(pair, **FEW)["runs"]) == 2


def test_queries_that_cannot_be_the_same(pair):
    first_rank, precision = draw_ranks(0)
    first_rank[3], precision[3] = 0, np.nan
    write_evaluation(pair[1], first_rank, precision)
    refused("one of their evaluations is damaged", *pair)
