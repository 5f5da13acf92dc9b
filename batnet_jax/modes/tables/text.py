"""A table as Markdown for people and as JSON for programs."""

import importlib.metadata
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections

from batnet_jax.config import RESUMABLE_FIELDS, default_config
from batnet_jax.data import DATASETS
from batnet_jax.errors import UserError
from batnet_jax.modes.tables.paper import SETTINGS, TITLES, Table
from batnet_jax.training.run_length import RunLength
from batnet_jax.workdir.run_folder import flatten

# Not settings of the method, or said elsewhere.
OWN_FIELDS = ("seed", "init", "data.dataset", "data.variant", "data.train")
# Of the free fields, those on which the figures depend.
EVAL_SETTINGS = ("eval.same_camera", "eval.multi_query", "eval.distractors")


class Description(NamedTuple):
    """The setting of a table in words; see `describe`."""

    data: str
    """What is trained and tested on."""
    paper_dataset: str
    """Whose figures of the paper's stand beside ours."""
    comparable: bool
    """Whether they are on the same data."""
    steps: int
    length: str
    """The steps, with the epochs that they are."""
    ap: str
    differences: list[str]
    """What is not as in the paper."""


class Setting(NamedTuple):
    """What is written about, apart from the results."""

    number: int
    table: Table
    description: Description
    seeds: tuple[int, ...]
    workdir: Path


def describe(config: ml_collections.ConfigDict, table: Table, length: RunLength) -> Description:
    """Compares a config with the paper's setting of a table."""
    trained, tested = data_names(config)
    same = trained == [tested] and tested in table.datasets
    reference = tested if same else table.datasets[0]
    data = tested if trained == [tested] else f"trained on {', '.join(trained)}; tested on {tested}"
    duration = f"{length.total} steps ({length.total / length.steps_per_epoch:.3g} epochs)"
    differences = [f"{duration} instead of 300 epochs"] * (
        length.total != 300 * length.steps_per_epoch
    )
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
    """The names, as in `paper.TITLES`, of what is trained on, and of the first test."""

    def full_name(name: str) -> str:
        base, _, detail = name.partition(":")
        if not detail and name == config.data.dataset:
            detail = config.data.variant
        variants = [variant.name for variant in DATASETS[base].BUILDER_CONFIGS]
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
    """Writes `table_<number>.json` and `.md`, each at once and whole.

    Args:
      setting: of the table.
      results: of each row by name: the evaluations (CONTRACT) there are, by seed.
      folders: of each row by name, relative to the workdir.
      failures: what went wrong in runs that were tried in vain.
    Returns: the path of the Markdown.

    Raises: UserError if they cannot be written.
    """
    contents = tabulate(setting, results, folders) | {"failures": list(failures)}
    path = setting.workdir / f"table_{setting.number}.md"
    texts = {path.with_suffix(".json"): json.dumps(contents, indent=2) + "\n"}
    texts[path] = format_markdown(contents, setting)
    try:
        setting.workdir.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            partial = file.with_suffix(f"{file.suffix}.partial")
            partial.write_text(text)
            partial.replace(file)
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
    """What is in the JSON file; figures are fractions, the paper's too."""
    table, description = setting.table, setting.description
    rows = []
    for row in table.rows:
        found = results[row.name]
        paper = zip(table.metrics, row.paper[description.paper_dataset], strict=True)
        rows.append(
            {
                "name": row.name,
                "overrides": row.overrides,
                "folder": folders[row.name],
                "seeds": list(found),
                "paper": {metric: round(value / 100, 3) for metric, value in paper},
                "ours": {
                    metric: summarise([figure(result, metric) for result in found.values()])
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
    """A metric of a table, such as R-5, of an evaluation."""
    return result["mAP"] if metric == "mAP" else result["cmc"][metric.removeprefix("R-")]


def summarise(values: list[float]) -> dict[str, Any] | None:
    """Mean and standard deviation (n - 1; None for one value); None if there are no values."""
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": spread, "values": values}


def format_markdown(contents: dict[str, Any], setting: Setting) -> str:
    """The table with our figures beside the paper's, in per cent, and what they rest on."""
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
        f"Data: {description.data}. {description.length} a run; seeds "
        f"{', '.join(map(str, setting.seeds))}. Per cent; where a row has several runs, mean ± "
        f"standard deviation (n - 1) over them. Average precision: `{description.ap}`; the paper "
        "does not name its own.",
        f"Not as in the paper: {'; '.join(description.differences)}.",
        "The rows of other authors' methods are left out: only the paper's own networks are run.",
        f"batnet_jax {contents['versions']['batnet_jax']}, JAX {contents['versions']['jax']}, "
        f"{contents['device']}.",
    ]
    if not description.comparable:
        notes.insert(
            1,
            f"The paper has no figures for this data: its columns are those of {title}, and only "
            "the order of the rows can be compared.",
        )
    notes += [f"Failed: {failure}." for failure in contents["failures"]]
    heading = f"# Table {setting.number}: {table.title}"
    return "\n\n".join([heading, "\n".join(lines), *notes]) + "\n"


def format_figure(summary: dict[str, Any] | None) -> str:
    """Mean and spread in per cent."""
    if summary is None:
        return "no result yet"
    spread = "" if summary["std"] is None else f" ± {100 * summary['std']:.1f}"
    return f"{100 * summary['mean']:.1f}{spread}"
