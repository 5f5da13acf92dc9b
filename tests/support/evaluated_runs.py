"""Workdirs of runs that nobody has trained: settings, evaluations and learning curves are drawn."""

import json

import numpy as np
import pytest

from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.evaluation import compare
from batnet_jax.evaluation.query_figures import VERSION, QueryFigures, to_bytes

SETS = {
    "query": {"images": 40, "labels": "aa", "content": "bb"},
    "gallery": {"images": 300, "labels": "cc", "content": "dd"},
}
STEP = 600
FEW = {"samples": 200}
"""Options of a comparison that takes little time."""


def draw_ranks(seed, queries=40, skill=0.5, noise=0.15):
    """Draw the first rank and the AP of each query; equal seeds have equally hard queries.

    The last query has no match.
    """
    rng = np.random.default_rng(0)
    hardness = rng.normal(size=queries)
    own = np.random.default_rng(seed + 1).normal(size=queries) * noise * 4
    precision = 1 / (1 + np.exp(hardness + own - 4 * (skill - 0.5)))
    precision = np.clip(precision, 0.01, 1)
    first_rank = np.where(precision > 0.5, 1, np.ceil(1 / precision)).astype(np.int64)
    precision[-1], first_rank[-1] = np.nan, 0
    return first_rank, precision


def write_evaluation(workdir, first_rank, precision, *, stem=f"step_{STEP}", pids=None, **changes):
    """Write an evaluation's .json and .npz; `changes` replace values of both."""
    valid = first_rank > 0
    number = len(first_rank)
    protocol = {"dataset": "people", "split": "test", "step": STEP, "ap": "precision"}
    protocol |= {"same_camera": "remove"}
    more = {"multi_query": "none", "sets": SETS}
    protocol |= {name: value for name, value in changes.items() if name in protocol}
    more |= {name: value for name, value in changes.items() if name in more}
    result = protocol | {
        "num_query": number, "num_valid_query": int(valid.sum()),
        "num_gallery": SETS["gallery"]["images"], "mAP": float(precision[valid].mean()),
        "mINP": float(precision[valid].mean() / 2),
        "cmc": {str(k): float((first_rank[valid] <= k).mean()) for k in (1, 5, 10, 20)},
    }  # fmt: skip
    folder = workdir / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(result))
    pids = np.arange(number) // 4 if pids is None else pids
    figures = QueryFigures({"version": VERSION, **protocol, **more}, pids, first_rank, precision)
    (folder / f"{stem}.npz").write_bytes(to_bytes(figures))


def write_run(
    workdir, *, seed=0, skill=0.5, queries=40, settings=(), steps=(200, 400, STEP), **more
):
    """Write a workdir with evaluations at some steps; return its path.

    Args:
      workdir: the folder to make.
      seed: of the run.
      skill: the higher, the better are the figures; about 0 to 1.
      queries: the number of queries.
      settings: fields of the config and their values.
      steps: of the evaluations.
      more: values of the evaluations to replace.
    """
    config = default_config()
    config.update_from_flattened_dict(dict(settings) | {"seed": seed})
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(config.to_json(indent=2) + "\n")
    lines = [
        {"step": s, "epoch": s // 50, "loss": 6 / s**0.3 + 0.2 * (1 - skill), "lr": 5e-4}
        for s in range(10, max(steps) + 1, 10)
    ]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step in steps:
        ranks = draw_ranks(seed, queries, skill - 0.3 * (1 - step / max(1, *steps)))
        write_evaluation(workdir, *ranks, stem=f"step_{step}", step=step, **more)
    return workdir


@pytest.fixture
def pair(tmp_path):
    """Write two runs that differ."""
    return [write_run(tmp_path / "a"), write_run(tmp_path / "b", skill=0.6)]


def refused(message, *runs, **options):
    """Assert that runs are not compared, in one line that matches; return it."""
    with pytest.raises(UserError, match=message) as error:
        compare(runs, **FEW | options)
    assert "\n" not in str(error.value)
    return str(error.value)
