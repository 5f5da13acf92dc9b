"""Settings and seeds of several runs: fields that differ, and groups that differ only in the seed.

Runs with the same settings differ by chance. The spread of a group of seeds shows how much, and the
differences of two groups with the same seeds show what the settings change.
"""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batnet_jax.config import FIELDS, RESUMABLE_FIELDS
from batnet_jax.evaluation.evaluated_run import EvaluatedRun
from batnet_jax.evaluation.paired import compare_seeds, holm

FIGURES = ("mAP", "rank1")
LENGTH_FIELDS = ("num_epochs", "steps")
"""Fields that may change when a run is resumed, and that change the weights all the same."""


def name_runs(workdirs: Sequence[Path]) -> list[str]:
    """Return a short name of each workdir: its path from the folder that holds all of them."""
    paths = [os.path.abspath(workdir) for workdir in workdirs]
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, common) for path in paths]


def changes_weights(field: str) -> bool:
    """Return whether a field can change the weights of a run."""
    resumable = any(f"{field}.".startswith(f"{name}.") for name in RESUMABLE_FIELDS)
    return not resumable or field in LENGTH_FIELDS


def differing_settings(runs: Sequence[EvaluatedRun]) -> list[dict[str, Any]]:
    """Return the fields in which runs differ, in the order of `FIELDS`.

    Returns: for each field: field, its name; values, one for each run, None if the run has no such
      field or no settings; changes_weights.
    """
    known = [run.settings for run in runs if run.settings is not None]
    fields = dict.fromkeys([*FIELDS, *(field for settings in known for field in settings)])
    rows = []
    for field in fields:
        if any(settings.get(field) != known[0].get(field) for settings in known):
            values = [run.settings and run.settings.get(field) for run in runs]
            rows.append(
                {"field": field, "values": values, "changes_weights": changes_weights(field)}
            )
    return rows


def group_runs(runs: Sequence[EvaluatedRun]) -> list[int]:
    """Return the group of each run, from 0: runs of a group differ only in the seed.

    Settings that cannot change the weights, such as folders, do not count. The step of the
    evaluation does. A run without settings is a group of its own.
    """
    numbers: dict[str, int] = {}
    groups = []
    for place, run in enumerate(runs):
        key = json.dumps(place)
        if run.settings is not None:
            own = {n: v for n, v in run.settings.items() if n != "seed" and changes_weights(n)}
            key = json.dumps([run.result["step"], own], sort_keys=True)
        groups.append(numbers.setdefault(key, len(numbers)))
    return groups


def summarise_groups(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean and the spread over the seeds of each group.

    Args:
      runs: name, seed, group, and for each of `FIGURES` the value.

    Returns: for each group: name; runs, as indices; seeds; for each of `FIGURES` mean, std (n - 1;
      None for one seed) and values, one a seed. Several runs with one seed count as their mean.
    """
    groups = []
    for number in range(1 + max(run["group"] for run in runs)):
        own = [place for place, run in enumerate(runs) if run["group"] == number]
        seeds = list(dict.fromkeys(runs[place]["seed"] for place in own))
        summary: dict[str, Any] = {"name": name_group([runs[place]["name"] for place in own])}
        summary |= {"runs": own, "seeds": seeds}
        for figure in FIGURES:
            values = [
                statistics.fmean(
                    runs[place][figure]["value"] for place in own if runs[place]["seed"] == seed
                )
                for seed in seeds
            ]
            std = statistics.stdev(values) if len(values) > 1 else None
            summary[figure] = {"mean": statistics.fmean(values), "std": std, "values": values}
        groups.append(summary)
    return groups


def name_group(names: Sequence[str]) -> str:
    """Return a name for a group: the names of its runs, or the first and the number of others."""
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]} and {len(names) - 1} more"


def compare_groups(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare each group with the first group, over the seeds that both groups have.

    Args:
      groups: see `summarise_groups`.

    Returns: for each group that shares at least two seeds with the first group: group, its index;
      seeds; for each of `FIGURES` the result of `compare_seeds` for the differences "group minus
      first group", and p_holm, which is p corrected for the number of groups.
    """
    found: list[dict[str, Any]] = []
    first = groups[0]
    for number, group in enumerate(groups[1:], 1):
        shared = [s for s in first["seeds"] if s is not None and s in group["seeds"]]
        if len(shared) < 2:
            continue
        row: dict[str, Any] = {"group": number, "seeds": shared}
        for figure in FIGURES:
            ours, theirs = (
                dict(zip(g["seeds"], g[figure]["values"], strict=True)) for g in (group, first)
            )
            row[figure] = compare_seeds([ours[seed] - theirs[seed] for seed in shared])
        found.append(row)
    for figure in FIGURES:
        for row, p in zip(found, holm([row[figure]["p"] for row in found]), strict=True):
            row[figure]["p_holm"] = p
    return found
