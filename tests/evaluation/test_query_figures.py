"""The file of each query's figures: what an evaluation writes, and what damaged files become."""

import json

import numpy as np
import pytest
from support.evaluated_runs import SETS, STEP, draw_ranks, write_run
from support.fuzzing import examples, fuzz_files, survives
from support.fuzzing import limits as limits
from support.stub_training import fake_embed, tiny_config

from batnet_jax.data.run_data import describe_sets, open_tests
from batnet_jax.errors import UserError
from batnet_jax.evaluation import evaluate, query_figures
from batnet_jax.evaluation.query_figures import read_query_figures
from batnet_jax.retrieval import metrics


def result_of(workdir):
    return json.loads((workdir / "eval" / f"step_{STEP}.json").read_text())


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Evaluate mean colours on `pedestrians:tiny`; return the test and the workdir."""
    folder = tmp_path_factory.mktemp("evaluated")
    config = tiny_config(folder)
    (test,) = open_tests(config)
    embed = fake_embed(None, {"params": {"w": np.ones(1)}})
    evaluate.run_tests(config, [test], embed, step=STEP, workdir=folder)
    return test, folder


def test_an_evaluation_keeps_the_figures_of_each_query(evaluated):
    """They give the figures of the .json to the last bit."""
    test, workdir = evaluated
    result = result_of(workdir)
    found = read_query_figures(workdir / "eval" / f"step_{STEP}.npz", result)
    assert found.header == {
        "version": 1, "dataset": "pedestrians", "split": "test", "step": STEP, "ap": "precision",
        "same_camera": "remove", "multi_query": "none", "sets": describe_sets(test),
    }  # fmt: skip
    np.testing.assert_array_equal(found.pids, test.query.pids)
    ranks = metrics.PerQuery(found.first_rank, found.average_precision, found.average_precision)
    summary = metrics.summarise(ranks, ap="precision", cmc_ranks=(1, 5, 10, 20))
    for name in ("mAP", "cmc", "num_valid_query"):
        assert summary[name] == result[name]


def test_equal_figures_are_equal_bytes(tmp_path):
    files = [write_run(tmp_path / name) / "eval" / f"step_{STEP}.npz" for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_file_of_msmt17s_size_is_small():
    """11,659 queries of 3,060 identities; no AP of a real test is like another here."""
    ranks = draw_ranks(0, queries=11_659)
    header = {"sets": SETS}
    figures = query_figures.QueryFigures(header, np.arange(11_659) // 4, *ranks)
    assert len(query_figures.to_bytes(figures)) < 150_000


@pytest.fixture
def workdir(tmp_path):
    return write_run(tmp_path / "run", steps=(STEP,))


def rewrite(workdir, **changes):
    """Replace arrays of the file; None removes one."""
    path = workdir / "eval" / f"step_{STEP}.npz"
    with np.load(path) as arrays:
        kept = dict(arrays) | changes
    np.savez(path, **{name: value for name, value in kept.items() if value is not None})
    return path


def header_with(workdir, **changes):
    with np.load(workdir / "eval" / f"step_{STEP}.npz") as arrays:
        return np.array(json.dumps(json.loads(str(arrays["header"])) | changes))


AP = "average_precision"


@pytest.mark.parametrize(
    "changes",
    [
        {"pids": None},
        {"pids": np.zeros(40)},
        {"first_rank": np.zeros(40, int)},
        {"first_rank": np.full(40, -1)},
        {"first_rank": np.ones((40, 1), int)},
        {AP: np.full(40, np.nan)},
        {AP: np.full(40, 1.5)},
        {AP: np.full(39, 0.5)},
        {"header": np.array("[]")},
        {"header": np.array("{")},
        {"header": np.array(json.dumps({"version": 1}))},
        {"header": np.array({"version": 1}, object)},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_other_contents_are_damaged(workdir, changes):
    path = rewrite(workdir, **changes)
    with pytest.raises(UserError, match=r"step_600\.npz' is damaged: evaluate the step again"):
        read_query_figures(path, result_of(workdir))


@pytest.mark.parametrize(
    "change",
    [{"version": 0}, {"version": "1"}, {"multi_query": None}, {"sets": {}}, {"sets": {"query": 1}},
     {"sets": SETS | {"more": {"images": 1, "labels": 2, "content": "x"}}}],
)  # fmt: skip
def test_another_header_is_damaged(workdir, change):
    path = rewrite(workdir, header=header_with(workdir, **change))
    with pytest.raises(UserError, match="is damaged: evaluate the step again"):
        read_query_figures(path, result_of(workdir))


def test_a_newer_version_is_named(workdir):
    path = rewrite(workdir, header=header_with(workdir, version=2), pids=None)
    with pytest.raises(UserError, match="was written by a newer version: update batnet_jax"):
        read_query_figures(path, result_of(workdir))


@pytest.mark.parametrize(
    "change",
    [{"mAP": 0.25}, {"step": 5}, {"ap": "trapezoid"}, {"dataset": "b"}, {"num_query": 41},
     {"cmc": {"1": 0.125}}],
    ids=lambda change: "-".join(change),
)  # fmt: skip
def test_a_file_of_another_evaluation_is_noticed(workdir, change):
    """An older version may have written the .json again, and left the .npz as it was."""
    with pytest.raises(UserError, match=r"is of another evaluation than 'step_600\.json'"):
        read_query_figures(workdir / "eval" / f"step_{STEP}.npz", result_of(workdir) | change)


@pytest.mark.parametrize("content", [b"", b"PK", b"{}", b"\x93NUMPY", bytes(400)])
def test_no_archive_is_damaged(workdir, content):
    path = workdir / "eval" / f"step_{STEP}.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged: evaluate the step again"):
        read_query_figures(path, result_of(workdir))


def test_an_archive_that_unpacks_to_too_much_is_not_read(workdir, monkeypatch):
    path = workdir / "eval" / f"step_{STEP}.npz"
    assert path.stat().st_size < 2500
    monkeypatch.setattr(query_figures, "_MAX_BYTES", 2500)
    with pytest.raises(UserError, match="is damaged: evaluate the step again"):
        read_query_figures(path, result_of(workdir))


@examples(150, 3000)
def test_damaged_bytes(tmp_path, examples):
    """A checksum of the archive finds most; what is read still has the .json's figures."""
    workdir = write_run(tmp_path / "run", steps=(STEP,))
    result, path = result_of(workdir), workdir / "eval" / f"step_{STEP}.npz"
    damaged = tmp_path / "damaged.npz"

    def reads(content):
        damaged.write_bytes(content)
        return not isinstance(survives(read_query_figures, damaged, result, folder=tmp_path), str)

    fuzz_files(examples, reads, [path.read_bytes()])
