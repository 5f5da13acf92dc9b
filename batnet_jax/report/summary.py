"""The section of figures: what they are, what they mean, and the baselines beside them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from batnet_jax.report.page import Markup, Section, definitions, escape, paragraph, table
from batnet_jax.report.sections import percent, title_of

_AP = {
    "precision": "the mean of the precision at the hits",
    "trapezoid": "the area under the precision-recall curve, by the trapezoidal rule",
}
_SAME_CAMERA = {
    "remove": "Images of the query's identity from the query's own camera are left out",
    "keep": "Images from the query's own camera count",
}


class Measured(NamedTuple):
    """The result of a test, and figures to compare it with."""

    result: Mapping[str, Any]
    """As `eval/step_<N>.json`."""
    before: Mapping[str, Any] | None = None
    """The result of the evaluation before this one; None if there is none."""
    baselines: Mapping[str, Mapping[str, Any]] = {}
    """mAP, mINP and cmc of the baselines, by name."""


def metrics_section(measured: Sequence[Measured]) -> Section:
    """Make the section of figures: large for the first test, and a table for each test.

    Args:
      measured: at least one.
    """
    result, before, baselines = measured[0]
    large = {"mAP": result["mAP"], "Rank-1": result["cmc"]["1"]}
    old = {} if before is None else {"mAP": before["mAP"], "Rank-1": before["cmc"]["1"]}
    lead = {
        name: Markup(f"{percent(value)}%{_change(value, old.get(name), before)}")
        for name, value in large.items()
    }
    style = "meaning low" if below(result, baselines) else "meaning"
    head = [definitions(lead, "lead"), paragraph(meaning(result, baselines), style)]
    return Section("metrics", "Figures", "\n".join([*head, *map(_table, measured)]))


def _change(value: float, old: float | None, before: Mapping[str, Any] | None) -> str:
    """Return the change of a figure since the evaluation before."""
    if old is None or before is None:
        return ""
    points = 100 * (value - old)
    style = "higher" if points >= 0.05 else "lower" if points <= -0.05 else ""
    return f' <span class="change {style}">{points:+.1f} since step {before["step"]:,}</span>'


def below(result: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of the baselines that are above a result, by mAP or Rank-1."""
    return [
        name
        for name, own in baselines.items()
        if own["mAP"] > result["mAP"] or own["cmc"]["1"] > result["cmc"]["1"]
    ]


def meaning(result: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]) -> str:
    """Say in one sentence what the figures of a result mean."""
    text = (
        f"For {_of_hundred(result)} of 100 queries the most similar image shows the same identity"
    )
    if not baselines:
        return f"{text}."
    others = ", ".join(f"{_of_hundred(own)} by {_said(n)}" for n, own in baselines.items())
    if above := below(result, baselines):
        return (
            f"{text}, but {others}: the network is below {' and '.join(map(_said, above))} and has "
            "not learnt to tell these identities apart, so train longer or start from pretrained "
            "weights."
        )
    return f"{text}; without training it is {others}."


def _said(baseline: str) -> str:
    """Return a baseline's name in a sentence."""
    return f"the {baseline}" if baseline.endswith("net") else baseline


def _of_hundred(figures: Mapping[str, Any]) -> str:
    return f"{100 * figures['cmc']['1']:.0f}"


def _table(measured: Measured) -> Markup:
    """Make the table of a test: its figures, the baselines, then its extra figures."""
    result, before, baselines = measured
    ranks = list(result["cmc"])
    compared = {} if before is None else {f"step {before['step']:,}, before": before}
    compared |= baselines
    own, *extra = _rows(result, ranks)
    bar = [_bar(result["mAP"])] if compared else []
    rows = [[own[0], *bar, *own[1:]]]
    for name, figures in compared.items():
        rows.append([name, _bar(figures["mAP"]), *_cells(figures, ranks), "", ""])
    rows += [[first, *([""] if bar else []), *rest] for first, *rest in extra]
    attributes = [' class="own"', *[""] * (len(rows) - 1)]
    head = ["test", *([""] if bar else []), "mAP", "mINP", *(f"Rank-{rank}" for rank in ranks)]
    head += ["queries", "gallery"]
    ap, kept = result["ap"], result["same_camera"]
    caption = f"In per cent. AP: {ap}, {_AP[ap]}. {_SAME_CAMERA[kept]}."
    if result.get("leave_out_own"):
        caption += " Each query's own image is left out of the gallery."
    if result["num_valid_query"] < result["num_query"]:
        caption += " Queries without a match in the gallery are skipped."
    return table(caption, head, rows, row_attributes=attributes)


def _bar(share: float) -> Markup:
    """Draw a fraction as a bar, which is shown beside the number."""
    width = f"{100 * max(share, 0.005):.1f}"
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="M0 0H{escape(width)}V8H0Z"/></svg>'
    )


def _cells(figures: Mapping[str, Any], ranks: Sequence[str]) -> list[str]:
    values = [figures.get("mAP"), figures.get("mINP")]
    return [percent(v) for v in [*values, *(figures["cmc"].get(rank) for rank in ranks)]]


def _rows(result: Mapping[str, Any], ranks: Sequence[str]) -> list[list[Any]]:
    """Return the rows of a test: its figures, then its extra figures."""
    title = title_of(result)
    counts = [f"{result['num_valid_query']:,} of {result['num_query']:,}"]
    counts = [*counts, f"{result['num_gallery']:,}"]
    rows: list[list[Any]] = [[title, *_cells(result, ranks), *counts]]
    for name in ("expanded", "reranked", "single_shot"):
        if name in result:
            label = f"{title}, {name.replace('_', ' ')}"
            rows.append([label, *_cells(result[name], ranks), *counts])
    if "confidence" in result:
        interval = result["confidence"]
        bounds = [interval["mAP"], interval["mINP"]]
        bounds += [interval["cmc"].get(rank) for rank in ranks]
        texts = ["-" if b is None else f"{percent(b[0])} to {percent(b[1])}" for b in bounds]
        rows.append([f"{title}, {100 * interval['level']:.0f}% interval", *texts, *counts])
    return rows
