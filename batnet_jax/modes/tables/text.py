"""A table as text: Markdown for people and JSON for programs."""

import importlib.metadata
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections

from batnet_jax.config import RESUMABLE_FIELDS, default_config, flatten
from batnet_jax.data import builder_of, split_name
from batnet_jax.errors import UserError
from batnet_jax.modes.tables.paper import SETTINGS, TITLES, Table
from batnet_jax.runtime.atomic_write import write_atomically
from batnet_jax.training.run_length import RunLength

# Fields that are not settings of the method, or that the notes mention elsewhere.
OWN_FIELDS = ("seed", "init", "data.dataset", "data.variant", "data.train")
# Resumable fields that change the figures.
EVAL_SETTINGS = (
    "eval.same_camera",
    "eval.leave_out_own",
    "eval.multi_query",
    "eval.distractors",
)


class Description(NamedTuple):
    """The setting of a table in words; see `describe`."""

    data: str
    """The training and test data."""
    paper_dataset: str
    """The data set whose figures the paper's columns show."""
    comparable: bool
    """Whether our figures are on the same data."""
    steps: int
    duration: str
    """The steps and the number of epochs they make."""
    ap: str
    differences: list[str]
    """The settings that differ from the paper's."""


class Setting(NamedTuple):
    """A table and the setting of its runs, without results."""

    number: int
    table: Table
    description: Description
    seeds: tuple[int, ...]
    workdir: Path


def describe(config: ml_collections.ConfigDict, table: Table, length: RunLength) -> Description:
    """Compare a config with the paper's setting of a table."""
    trained, tested = data_names(config)
    same = trained == [tested] and tested in table.datasets
    reference = tested if same else table.datasets[0]
    data = tested if trained == [tested] else f"trained on {', '.join(trained)}; tested on {tested}"
    duration = f"{length.total} steps ({length.total / length.steps_per_epoch:.3g} epochs)"
    differences = []
    if length.total != 300 * length.steps_per_epoch:
        differences.append(f"{duration} instead of 300 epochs")
    paper = flatten(default_config().to_dict()) | SETTINGS.get(reference, {})
    attended = [row.overrides for row in table.rows if row.overrides["attention"] != "none"]
    varied = set.intersection(*(set(overrides) for overrides in attended))
    for field, value in flatten(config.to_dict()).items():
        free = any(f"{field}.".startswith(f"{name}.") for name in (*RESUMABLE_FIELDS, *OWN_FIELDS))
        if (free and field not in EVAL_SETTINGS) or field.removeprefix("model.") in varied:
            continue
        if value != paper[field]:
            differences.append(f"`{field}` {value} instead of {paper[field]}")
    start = config.init["from"]
    if start:
        differences.append(f"the weights start from '{start}'")
    else:
        differences.append("the weights start at random, not from ImageNet's")
    return Description(data, reference, same, length.total, duration, config.eval.ap, differences)


def data_names(config: ml_collections.ConfigDict) -> tuple[list[str], str]:
    """Return the names, as in `paper.TITLES`, of the training data sets and of the first test."""

    def full_name(name: str) -> str:
        base, detail, _ = split_name(name)
        if not detail and name == config.data.dataset:
            detail = config.data.variant
        variants = [variant.name for variant in builder_of(name).BUILDER_CONFIGS]
        detail = detail or next(iter(variants), "")
        return f"{base}:{detail}" if detail else base

    trained = config.data.train or (config.data.dataset,)
    tested = config.eval.datasets or trained
    return [full_name(name) for name in trained], full_name(tested[0])


def write_table(
    setting: Setting,
    results: Mapping[str, Mapping[int, dict[str, Any]]],
    folders: Mapping[str, str],
    failures: Sequence[str] = (),
) -> Path:
    """Write `table_<number>.json` and `.md`, each atomically.

    Args:
      setting: of the table.
      results: the available evaluations by row name and seed, as in `eval/step_<N>.json`.
      folders: the folder of each row, by name, relative to the workdir.
      failures: the messages of runs that failed.
    Returns: the path of the Markdown file.

    Raises: UserError if a file cannot be written.
    """
    contents = tabulate(setting, results, folders) | {"failures": list(failures)}
    path = setting.workdir / f"table_{setting.number}.md"
    texts = {path.with_suffix(".json"): json.dumps(contents, indent=2) + "\n"}
    texts[path] = format_markdown(contents, setting)
    try:
        for file, text in texts.items():
            write_atomically(file, text)
    except OSError as error:
        raise UserError(
            f"cannot write to the workdir '{setting.workdir}' ({error.strerror}): name another "
            "--workdir"
        ) from error
    return path


def tabulate(
    setting: Setting,
    results: Mapping[str, Mapping[int, dict[str, Any]]],
    folders: Mapping[str, str],
) -> dict[str, Any]:
    """Return the contents of the JSON file; all figures are fractions, including the paper's."""
    table, description = setting.table, setting.description
    rows = []
    for row in table.rows:
        by_seed = results[row.name]
        paper = zip(table.metrics, row.paper[description.paper_dataset], strict=True)
        rows.append(
            {
                "name": row.name,
                "overrides": row.overrides,
                "folder": folders[row.name],
                "seeds": list(by_seed),
                "paper": {metric: round(value / 100, 3) for metric, value in paper},
                "ours": {
                    metric: summarise([figure(result, metric) for result in by_seed.values()])
                    for metric in table.metrics
                },
            }
        )
    devices = jax.devices()
    return {
        "table": setting.number,
        "title": table.title,
        "dataset": description.data,
        "paper_dataset": description.paper_dataset,
        "comparable": description.comparable,
        "steps": description.steps,
        "ap": description.ap,
        "seeds": list(setting.seeds),
        "differences": description.differences,
        "rows": rows,
        "versions": {
            "batnet_jax": importlib.metadata.version("batnet-jax"),
            "jax": jax.__version__,
        },
        "device": f"{len(devices)} x {devices[0].device_kind}",
    }


def figure(result: dict[str, Any], metric: str) -> float:
    """Return a metric of a table, such as R-5, from an evaluation."""
    return result["mAP"] if metric == "mAP" else result["cmc"][metric.removeprefix("R-")]


def summarise(values: list[float]) -> dict[str, Any] | None:
    """Return mean and standard deviation (n - 1; None for one value), or None without values."""
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": spread, "values": values}


def format_markdown(contents: dict[str, Any], setting: Setting) -> str:
    """Return the table of our figures beside the paper's, in per cent, with notes."""
    table, description = setting.table, setting.description
    title = TITLES[description.paper_dataset]
    paper = "paper" if description.comparable else f"paper, {title}"
    head = [
        "network",
        "runs",
        *(f"{m}, {whose}" for m in table.metrics for whose in ("ours", paper)),
    ]
    lines = [f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 1)}"]
    for row in contents["rows"]:
        cells = [row["name"], str(len(row["seeds"]))]
        for metric in table.metrics:
            cells += [format_figure(row["ours"][metric]), f"{100 * row['paper'][metric]:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    notes = [
        f"Data: {description.data}. {description.duration} per run; seeds "
        f"{', '.join(map(str, setting.seeds))}. Figures in per cent; a row of several runs "
        "shows mean ± standard deviation (n - 1). Average precision: "
        f"`{description.ap}`; the paper does not name its convention.",
        f"Not as in the paper: {'; '.join(description.differences)}.",
        "The rows of other authors' methods are left out: only the paper's own networks are run.",
        f"batnet_jax {contents['versions']['batnet_jax']}, JAX {contents['versions']['jax']}, "
        f"{contents['device']}.",
    ]
    if not description.comparable:
        notes.insert(
            1,
            f"The paper has no figures for this data: its columns show {title}, and only "
            "the order of the rows can be compared.",
        )
    notes += [f"Failed: {failure}." for failure in contents["failures"]]
    heading = f"# Table {setting.number}: {table.title}"
    return "\n\n".join([heading, "\n".join(lines), *notes]) + "\n"


def format_figure(summary: dict[str, Any] | None) -> str:
    """Return mean and standard deviation in per cent."""
    if summary is None:
        return "no result yet"
    spread = "" if summary["std"] is None else f" ± {100 * summary['std']:.1f}"
    return f"{100 * summary['mean']:.1f}{spread}"
