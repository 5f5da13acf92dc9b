"""Compares runs that were evaluated on the same test: differences, intervals and p-values.

All runs are compared with the first. evaluated_run reads a run, paired holds the statistics of
queries and seeds, run_groups compares settings and groups of seeds.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from batnet_jax.errors import UserError
from batnet_jax.evaluation.evaluated_run import EvaluatedRun, read_run
from batnet_jax.evaluation.paired import holm, paired_bootstrap, sign_flip_test
from batnet_jax.evaluation.run_groups import (
    FIGURES,
    compare_groups,
    differing_settings,
    group_runs,
    name_runs,
    summarise_groups,
)
from batnet_jax.retrieval.checks import choice, positive_int

VERSION = 1
SAMPLES = 10_000
"""Draws of the bootstrap and of the sign flips: the lowest p-value is 1 / 10,001."""
LEVEL = 0.95
"""The confidence level of the intervals."""
UNITS = ("identity", "query")
_PROTOCOL = ("ap", "same_camera", "leave_out_own", "multi_query")
"""Settings of an evaluation that change its figures, by their names in `config.eval`."""


def compare(
    runs: Sequence[str | os.PathLike],
    *,
    test: str | None = None,
    step: int = 0,
    unit: str = "identity",
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare runs that were evaluated on the same test.

    A difference is another run's figure minus the first run's. Runs that cannot be read are left
    out and named in the result; the first run must be readable.

    Args:
      runs: workdirs, at least two.
      test: the name of a data set, with ` val` behind it for held-out identities; None = each
        run's first test.
      step: of the evaluations; 0 = each run's latest.
      unit: what the bootstrap draws and the test flips: "identity", each with all its queries, or
        "query". Queries of one person are similar, so single queries give too narrow intervals.
      samples: the number of draws.
      seed: of the draws.

    Returns: a dict that JSON can hold; figures are fractions.
      version: of this structure.
      test: data set, split, numbers of images, protocol, fingerprints.
      method: unit, units (their number), samples, seed, level.
      runs: for each run: name, workdir, step, seed, group (an index); mAP and rank1: value, low,
        high; mINP; cmc.
      differences: for each run but the first: run (its name); mAP and rank1: value, low, high, p,
        p_holm. Each figure's p-values are corrected for the number of runs.
      groups: see `summarise_groups`.
      seed_differences: see `compare_groups`.
      settings: see `differing_settings`.
      left_out: for each run that is left out: run, reason.

    Raises:
      UserError: for fewer than two runs, a run given twice, a first run that cannot be read, or
        runs whose test sets or protocols differ.
    """
    choice("unit", unit, UNITS)
    positive_int("samples", samples)
    found, left_out = _read_all(_check_paths(runs), test, step)
    for other in found[1:]:
        check_same_test(found[0], other)
    queries = found[0].queries
    pids = queries.pids[queries.first_rank > 0]
    units = pids if unit == "identity" else np.arange(len(pids))
    figures, differences = _compare_queries(found, units, samples=samples, seed=seed)
    names = name_runs([run.workdir for run in found])
    described = [
        {
            "name": name,
            "workdir": str(run.workdir),
            "step": run.result["step"],
            "seed": run.settings and run.settings["seed"],
            "group": group,
            **own,
            "mINP": run.result["mINP"],
            "cmc": run.result["cmc"],
        }
        for run, name, group, own in zip(found, names, group_runs(found), figures, strict=True)
    ]
    groups = summarise_groups(described)
    method = {"unit": unit, "units": len(np.unique(units)), "samples": samples, "seed": seed}
    return {
        "version": VERSION,
        "test": _describe_test(found[0]),
        "method": method | {"level": LEVEL},
        "runs": described,
        "differences": [
            {"run": name, **own} for name, own in zip(names[1:], differences, strict=True)
        ],
        "groups": groups,
        "seed_differences": compare_groups(groups),
        "settings": differing_settings(found),
        "left_out": left_out,
    }


def _check_paths(runs: Sequence[str | os.PathLike]) -> list[Path]:
    """Return the paths of the runs.

    Raises: UserError for fewer than two, a run that is given twice, or a URL.
    """
    names = [os.fspath(run) for run in ([runs] if isinstance(runs, str | os.PathLike) else runs)]
    if len(names) < 2:
        given = f"'{names[0]}' alone" if names else "nothing"
        raise UserError(f"{given} cannot be compared: name the workdirs of two or more runs")
    seen: dict[str, str] = {}
    for name in names:
        if "://" in name:
            raise UserError(f"'{name}' is not a folder: copy the run to one, and name that")
        place = os.path.realpath(name)
        if place in seen:
            raise UserError(f"'{seen[place]}' and '{name}' are the same run: name each run once")
        seen[place] = name
    return [Path(name) for name in names]


def _read_all(
    paths: Sequence[Path], test: str | None, step: int
) -> tuple[list[EvaluatedRun], list[dict[str, str]]]:
    """Read the runs; return those that can be compared, and the name and the problem of the others.

    Raises: UserError if the first run, or all others, cannot be read.
    """
    found, left_out = [], []
    for path in paths:
        try:
            found.append(read_run(path, test=test, step=step))
        except UserError as error:
            if not found:
                raise UserError(f"{error} (all others are compared with the first run)") from error
            left_out.append({"run": str(path), "reason": str(error)})
    if len(found) < 2:
        reasons = "; ".join(own["reason"] for own in left_out)
        raise UserError(f"no run is left to compare with '{paths[0]}': {reasons}")
    return found, left_out


def check_same_test(first: EvaluatedRun, other: EvaluatedRun) -> None:
    """Check that two runs were evaluated on the same images by the same protocol.

    Raises: UserError that names both runs and what differs.
    """
    ours, theirs = first.queries.header, other.queries.header
    pair = f"'{first.workdir}' and '{other.workdir}' cannot be compared"
    for name in dict.fromkeys([*ours["sets"], *theirs["sets"]]):
        a, b = ours["sets"].get(name), theirs["sets"].get(name)
        if a is None or b is None:
            raise UserError(f"{pair}: only one of them was tested with {name} images")
        if a["labels"] != b["labels"]:
            sizes = " and ".join(
                f"{own['images']:,} images of {header['dataset']} ({own['labels']})"
                for own, header in ((a, ours), (b, theirs))
            )
            raise UserError(
                f"{pair}, because their {name} sets differ: {sizes}; choose runs, or a test, with "
                "the same images"
            )
        if a["content"] != b["content"]:
            raise UserError(
                f"{pair}: their {name} images have the same names and labels but other contents "
                f"({a['content']} and {b['content']}); evaluate both on the same copy of the data"
            )
    for name in _PROTOCOL:
        own, other_value = ours.get(name, False), theirs.get(name, False)
        if own != other_value:
            raise UserError(
                f"{pair}: the first was evaluated with eval.{name}={own}, the other with "
                f"{other_value}; evaluate one of them again"
            )
    valid, other_valid = (run.queries.first_rank > 0 for run in (first, other))
    pids, other_pids = first.queries.pids, other.queries.pids
    if not (np.array_equal(valid, other_valid) and np.array_equal(pids, other_pids)):
        raise UserError(f"{pair}: one of their evaluations is damaged; evaluate both again")


def _compare_queries(
    runs: Sequence[EvaluatedRun], units: np.ndarray, *, samples: int, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compare the figures of each query.

    Args:
      runs: m runs on the same test, of q queries with a match.
      units: [q], see `paired_bootstrap`.
      samples: the number of draws.
      seed: of the draws.

    Returns: mAP and rank1 of each run, and of the difference of each run but the first.
    """
    valid = runs[0].queries.first_rank > 0
    values = np.array(
        [
            [run.queries.average_precision[valid] for run in runs],
            [run.queries.first_rank[valid] == 1 for run in runs],
        ],
        np.float64,
    )  # [figures, m, q]
    to_first = values[:, 1:] - values[:, :1]
    columns = np.concatenate([values, to_first], axis=1)
    estimates = paired_bootstrap(
        columns.reshape(-1, columns.shape[2]).T, units, samples=samples, seed=seed, level=LEVEL
    )
    found = np.stack(estimates, axis=1).reshape(*columns.shape[:2], 3).tolist()
    p_values = sign_flip_test(
        to_first.reshape(-1, columns.shape[2]).T, units, samples=samples, seed=seed
    ).reshape(to_first.shape[:2])
    rows: list[dict[str, Any]] = [{} for _ in range(columns.shape[1])]
    for name, own, p in zip(FIGURES, found, p_values.tolist(), strict=True):
        for row, (value, low, high) in zip(rows, own, strict=True):
            row[name] = {"value": value, "low": low, "high": high}
        for row, each, corrected in zip(rows[len(runs) :], p, holm(p), strict=True):
            row[name] |= {"p": each, "p_holm": corrected}
    return rows[: len(runs)], rows[len(runs) :]


def _describe_test(run: EvaluatedRun) -> dict[str, Any]:
    """Return the test of a run: data set, split, numbers, protocol and fingerprints."""
    names = ("dataset", "split", "num_query", "num_valid_query", "num_gallery")
    described = {name: run.result[name] for name in names}
    header = run.queries.header
    return described | {name: header[name] for name in (*_PROTOCOL, "sets") if name in header}
