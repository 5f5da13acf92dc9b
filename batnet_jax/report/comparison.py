"""The sections of the page that compares runs; `evaluation.compare` computes the figures."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from batnet_jax.report.charts import STYLES, Interval, Series, interval_chart, line_chart, thin
from batnet_jax.report.page import (
    Cell,
    Markup,
    Section,
    details,
    escape,
    grid,
    heading,
    paragraph,
    table,
)
from batnet_jax.report.sections import percent, title_of
from batnet_jax.report.settings import value_text

NAMES = {"mAP": "mAP", "rank1": "Rank-1"}
"""The figures that are compared."""
SIGNIFICANT = 0.05
"""The corrected p-value below which a difference is called higher or lower."""
_MAX_POINTS = 150
"""Points of a loss curve: with more, the curves of several runs hide each other."""
_VERDICTS = {"higher": "higher", "lower": "lower", "equal": "not told apart"}


class RunCurves(NamedTuple):
    """Points (step, value) of a run, by step; none where a curve is unknown."""

    loss: Sequence[tuple[float, float]]
    mean_ap: Sequence[tuple[float, float]]
    rank1: Sequence[tuple[float, float]]


def verdict(difference: Mapping[str, Any]) -> str:
    """Return `higher`, `lower`, or `equal` for a difference that chance may have made."""
    if difference["p_holm"] >= SIGNIFICANT:
        return "equal"
    return "higher" if difference["value"] > 0 else "lower"


def signed(value: float) -> str:
    """Format a difference in percentage points, with its sign."""
    return f"{100 * value:+.1f}"


def p_text(p: float) -> str:
    """Format a p-value."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def span(own: Mapping[str, Any], show: Any = percent) -> str:
    """Format an interval."""
    return f"{show(own['low'])} to {show(own['high'])}"


def comparison_sections(
    comparison: Mapping[str, Any], curves: Sequence[RunCurves], messages: Sequence[str]
) -> list[Section]:
    """Make all sections of the page.

    Args:
      comparison: see `evaluation.compare`.
      curves: the learning curves of each run.
      messages: one for each damaged file, whose points are missing in the curves.
    """
    sections = [_figures_section(comparison), _differences_section(comparison)]
    if any(len(group["runs"]) > 1 for group in comparison["groups"]):
        sections.append(_seeds_section(comparison))
    sections += [_settings_section(comparison), _curves_section(comparison, curves)]
    left_out = [*(own["reason"] for own in comparison["left_out"]), *messages]
    if left_out:
        items = "".join(f"<li>{escape(text)}</li>" for text in left_out)
        sections.append(Section("left-out", "Left out", Markup(f'<ul class="list">{items}</ul>')))
    sections.append(_method_section(comparison))
    return sections


def _figures_section(comparison: Mapping[str, Any]) -> Section:
    """Make the section of each run's figures and intervals."""
    test, runs = comparison["test"], comparison["runs"]
    ranks = [rank for rank in runs[0]["cmc"] if rank != "1"]
    head = ["run", "seed", "step", "mAP", "interval", "Rank-1", "interval", "mINP"]
    head += [f"Rank-{rank}" for rank in ranks]
    rows = [
        [
            run["name"],
            "-" if run["seed"] is None else run["seed"],
            f"{run['step']:,}",
            *(text for name in NAMES for text in (percent(run[name]["value"]), span(run[name]))),
            percent(run["mINP"]),
            *(percent(run["cmc"].get(rank)) for rank in ranks),
        ]
        for run in runs
    ]
    level = comparison["method"]["level"]
    caption = (
        f"{title_of(test)}, in per cent, with {100 * level:.0f}% intervals. AP: {test['ap']}."
        " The first run is the one that the others are compared with."
    )
    body = table(caption, head, rows, style="runs")
    if len({run["step"] for run in runs}) > 1:
        body = paragraph("The runs were evaluated after different numbers of steps.") + body
    return Section("figures", "Figures", body)


def _differences_section(comparison: Mapping[str, Any]) -> Section:
    """Make the section of the differences to the first run."""
    first, rows = comparison["runs"][0]["name"], comparison["differences"]
    panels = []
    for key, name in NAMES.items():
        intervals = [
            Interval(
                row["run"],
                *(row[key][part] for part in ("value", "low", "high")),
                note=f"{signed(row[key]['value'])}, p {p_text(row[key]['p_holm'])}",
                style=verdict(row[key]),
            )
            for row in rows
        ]
        chart = interval_chart(
            intervals,
            title=f"Differences in {name} to {first}, with intervals",
            x_label=f"{name} minus that of {_short(first)}, percentage points",
            show=lambda value: f"{100 * value:+.4g}" if value else "0",
        )
        panels.append(heading(name) + chart)
    head = ["run"]
    for name in NAMES.values():
        head += [name, "interval", "p", "corrected p", "verdict"]
    cells = [
        [row["run"], *(cell for key in NAMES for cell in _difference_cells(row[key]))]
        for row in rows
    ]
    caption = (
        f"Differences to {first} in percentage points. Corrected: Holm's correction for "
        f"{len(rows)} {'run' if len(rows) == 1 else 'runs'}; below {SIGNIFICANT} a difference is "
        "called higher or lower"
    )
    note = (
        f"Each run minus {first}; p is corrected. The differences are those of trained networks. "
        "Two seeds of the same settings differ, too, so a claim about settings needs several seeds."
    )
    body = paragraph(note) + grid(panels) + table(caption, head, cells, style="runs")
    return Section("differences", "Differences", body)


def _difference_cells(own: Mapping[str, Any]) -> list[Any]:
    kind = verdict(own)
    return [
        signed(own["value"]),
        span(own, signed),
        p_text(own["p"]),
        p_text(own["p_holm"]),
        Cell(_VERDICTS[kind], kind),
    ]


def _seeds_section(comparison: Mapping[str, Any]) -> Section:
    """Make the section of groups of runs that differ only in the seed."""
    groups = comparison["groups"]
    rows = [
        [
            group["name"],
            ", ".join("-" if seed is None else str(seed) for seed in group["seeds"]),
            *(spread(group[key]) for key in NAMES),
        ]
        for group in groups
    ]
    caption = (
        "Runs whose settings differ only in the seed: mean and standard deviation (n - 1) over "
        "the seeds, in per cent"
    )
    body = table(caption, ["runs", "seeds", *NAMES.values()], rows, style="runs")
    compared = comparison["seed_differences"]
    if not compared:
        text = "No two groups share two seeds, so no difference over seeds can be computed."
        return Section("seeds", "Seeds", body + (paragraph(text) if len(groups) > 1 else ""))
    head = ["runs", "seeds"]
    for name in NAMES.values():
        head += [name, "sd", "interval", "p", "corrected p"]
    cells = [
        [
            groups[row["group"]]["name"],
            ", ".join(map(str, row["seeds"])),
            *(text for key in NAMES for text in _seed_cells(row[key])),
        ]
        for row in compared
    ]
    caption = (
        f"Differences to {groups[0]['name']}, seed by seed, in percentage points. sd: standard "
        "deviation of the differences. With n seeds no p is below 2 / 2^n: 5 seeds cannot reach "
        f"{SIGNIFICANT}, 6 can"
    )
    return Section("seeds", "Seeds", body + table(caption, head, cells, style="runs"))


def _seed_cells(own: Mapping[str, Any]) -> list[str]:
    texts = [signed(own["mean"]), percent(own["std"]), span(own, signed)]
    return [*texts, p_text(own["p"]), p_text(own["p_holm"])]


def spread(own: Mapping[str, Any]) -> str:
    """Format a mean and a standard deviation in per cent; of one value only the mean."""
    return percent(own["mean"]) + ("" if own["std"] is None else f" ± {percent(own['std'])}")


def _settings_section(comparison: Mapping[str, Any]) -> Section:
    """Make the section of the settings that differ."""
    names = [run["name"] for run in comparison["runs"]]

    def rows(changes_weights: bool) -> list[list[Any]]:
        return [
            [row["field"], *_setting_cells(row["values"])]
            for row in comparison["settings"]
            if row["changes_weights"] is changes_weights
        ]

    head = ["field", *names]
    main, others = rows(True), rows(False)
    body = paragraph("No setting that changes the network differs.")
    if main:
        caption = "Settings that differ; values other than the first run's are marked"
        body = table(caption, head, main, style="runs")
    if others:
        caption = "Settings that differ and cannot change the network"
        body += details("Folders, caches and records", table(caption, head, others, style="runs"))
    return Section("settings", "Settings", Markup(body))


def _setting_cells(values: Sequence[Any]) -> list[Cell]:
    return [
        Cell(
            "-" if value is None else Markup(f"<code>{escape(value_text(value))}</code>"),
            "" if value == values[0] else "is-changed",
        )
        for value in values
    ]


def _curves_section(comparison: Mapping[str, Any], curves: Sequence[RunCurves]) -> Section:
    """Make the section of learning curves: runs of a group share a style."""
    groups = comparison["groups"]
    parts = []
    # Each chart has the first group, for comparison, and as many others as have a style left.
    others = range(1, len(groups))
    for start in range(0, max(len(others), 1), STYLES - 1):
        shown = [0, *others[start : start + STYLES - 1]]
        parts += _curve_figures(comparison, curves, shown)
    if not parts:
        body = paragraph("The workdirs hold no figures from training.")
        return Section("curves", "Learning curves", body)
    text = f"The loss is that of training, mAP and Rank-1 are on {title_of(comparison['test'])}."
    if any(len(group["runs"]) > 1 for group in groups):
        text += " Runs whose settings differ only in the seed have lines of one kind."
    return Section("curves", "Learning curves", paragraph(text) + grid(parts))


def _curve_figures(
    comparison: Mapping[str, Any], curves: Sequence[RunCurves], shown: Sequence[int]
) -> list[str]:
    """Draw the loss, mAP and Rank-1 of some groups by step."""
    groups, figures = comparison["groups"], []
    kinds = {"loss": "Training loss", "mean_ap": "mAP", "rank1": "Rank-1"}
    for field, title in kinds.items():
        lines, styles = [], []
        for style, number in enumerate(shown):
            for place in groups[number]["runs"]:
                points = getattr(curves[place], field)
                if points:
                    xs, ys = zip(*points, strict=True)
                    lines.append(thin(Series(groups[number]["name"], xs, ys), _MAX_POINTS))
                    styles.append(style)
        if not lines:
            continue
        share = field != "loss"
        chart = line_chart(
            lines,
            title=f"{title} of {len(lines)} {'run' if len(lines) == 1 else 'runs'} by step",
            x_label="step",
            y_label=title,
            dots=share,
            show=(lambda value: f"{100 * value:.3g}%") if share else None,
            styles=styles,
        )
        figures.append(heading(title) + chart)
    return figures


def _method_section(comparison: Mapping[str, Any]) -> Section:
    """Make the section that explains the figures."""
    method, test = comparison["method"], comparison["test"]
    unit = {"identity": "identities, each with all its queries", "query": "queries"}[method["unit"]]
    texts = [
        f"Test: {title_of(test)}, {test['num_valid_query']:,} of {test['num_query']:,} queries have"
        f" a match among {test['num_gallery']:,} gallery images. AP: {test['ap']}; same camera: "
        f"{test['same_camera']}; multi-query: {test['multi_query']}"
        f"{'; own images left out' if test.get('leave_out_own') else ''}. All runs were evaluated"
        " on the same images: their fingerprints are equal.",
        f"Intervals: {100 * method['level']:.0f}% percentile bootstrap of {method['samples']:,} "
        f"samples of {method['units']:,} {unit}. All runs have the same samples, so intervals of "
        "differences are paired (Efron and Tibshirani, 1993; Davison and Hinkley, 1997). They are "
        "not corrected for the number of runs.",
        "p: two-sided test that flips the signs of the paired differences (Fisher, 1935; Smucker, "
        "Allan and Carterette, CIKM 2007; Phipson and Smyth, 2010). Corrected p: Holm, 1979, over "
        "the runs, for each figure by itself.",
        "Seeds: differences of runs with the same seed; interval of Student, 1908; p by flipping "
        "signs.",
    ]
    return Section("method", "Method", Markup("".join(map(paragraph, texts))))


def _short(name: str) -> str:
    return name if len(name) <= 16 else "the first run"
