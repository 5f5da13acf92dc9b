"""The sections of the report: plain figures in, HTML out."""

from collections.abc import Mapping, Sequence
from typing import Any

from batnet_jax.report.charts import Series, histogram, line_chart, thin
from batnet_jax.report.page import (
    Cell,
    Markup,
    Section,
    definitions,
    details,
    figure,
    grid,
    heading,
    paragraph,
    table,
)

_AP = {
    "precision": "the mean of the precision at the hits",
    "trapezoid": "the area under the precision-recall curve, by trapezoids",
}
_SAME_CAMERA = {
    "remove": "Images of the query's identity by its own camera are left out",
    "keep": "Images of the query's own camera count",
}
CMC_RANKS = 50
"""How far the curve is drawn: what a person may look through."""
ACCEPTED = 1e-2
"""The false accept rate whose threshold is drawn: the lowest for which a small test has pairs
enough."""
POINTS = 400
"""Of a curve: one for each pixel of its width."""


def percent(value: float | None) -> str:
    """A fraction in per cent, as the field writes it."""
    return "-" if value is None else f"{100 * value:.1f}"


def title_of(result: Mapping[str, Any]) -> str:
    """A test's name."""
    return result["dataset"] + " val" * (result["split"] == "val")


def metrics_section(results: Sequence[Mapping[str, Any]]) -> Section:
    """The figures: the first test's large, all in a table.

    Args:
      results: as `eval/step_<N>.json`; at least one.
    """
    main = results[0]
    ranks = list(main["cmc"])
    named = {"mAP": main["mAP"], "mINP": main["mINP"]}
    named |= {f"Rank-{rank}": main["cmc"][rank] for rank in ranks}
    tiles = definitions({name: f"{percent(value)}%" for name, value in named.items()}, "tiles")
    head = ["test", *named, "queries", "gallery"]
    rows = [row for result in results for row in _rows(result, ranks)]
    ap, kept = main["ap"], main["same_camera"]
    caption = f"In per cent. AP: {ap}, {_AP[ap]}. {_SAME_CAMERA[kept]}."
    if main["num_valid_query"] < main["num_query"]:
        caption += " Queries without a match in the gallery are skipped."
    return Section("metrics", "Metrics", tiles + table(caption, head, rows))


def _rows(result: Mapping[str, Any], ranks: Sequence[str]) -> list[list[Any]]:
    """Of the table: the test, then what was asked for beside it."""

    def cells(figures: Mapping[str, Any]) -> list[str]:
        values = [figures.get("mAP"), figures.get("mINP")]
        return [percent(v) for v in [*values, *(figures["cmc"].get(rank) for rank in ranks)]]

    title = title_of(result)
    counts = [f"{result['num_valid_query']:,} of {result['num_query']:,}"]
    counts = [*counts, f"{result['num_gallery']:,}"]
    rows: list[list[Any]] = [[title, *cells(result), *counts]]
    for name in ("expanded", "reranked", "single_shot"):
        if name in result:
            label = f"{title}, {name.replace('_', ' ')}"
            rows.append([label, *cells(result[name]), *counts])
    if "confidence" in result:
        sure = result["confidence"]
        pairs = [sure["mAP"], sure["mINP"], *(sure["cmc"].get(rank) for rank in ranks)]
        texts = ["-" if p is None else f"{percent(p[0])} to {percent(p[1])}" for p in pairs]
        rows.append([f"{title}, {100 * sure['level']:.0f}% interval", *texts, *counts])
    return rows


def curves_section(
    first_ranks: Sequence[int],
    verification: Mapping[str, Any] | str,
    test: str,
    *,
    key: str = "curves",
    title: str = "Curves",
) -> Section:
    """The CMC curve, and how far apart pairs of images lie.

    Args:
      first_ranks: of the right images, from 1; at least one.
      verification: see `retrieval.verify`, of the cosine; or why there is none.
      test: its name.
      key: the section's.
      title: the section's.
    """
    if isinstance(verification, str):
        right = paragraph(f"No histogram of distances: {verification}")
    else:
        right = verification_figure(verification, test)
    return Section(key, title, grid([cmc_figure(first_ranks, test), right]))


def cmc_figure(first_ranks: Sequence[int], title: str) -> Markup:
    """The CMC curve.

    Args:
      first_ranks: of the right images, from 1; at least one.
      title: of the test.
    """
    ranks = list(range(1, CMC_RANKS + 1))
    shares = [sum(first <= rank for first in first_ranks) / len(first_ranks) for rank in ranks]
    low = min(0.95 * shares[0], 0.9) if shares[0] > 0.5 else 0.0
    chart = line_chart(
        [Series("CMC", ranks, shares)],
        title=f"CMC curve of {title}: {percent(shares[0])}% at rank 1 to {percent(shares[-1])}% "
        f"at rank {CMC_RANKS}",
        x_label="rank",
        y_label="queries found",
        y_range=(low, 1.0),
        show=lambda value: f"{100 * value:.3g}%",
    )
    rows = [[rank, percent(shares[rank - 1])] for rank in (1, 2, 3, 5, 10, 20, 50)]
    numbers = table("Queries found at this rank or before, in per cent", ["rank", "found"], rows)
    text = "The share of queries whose first right image stands at this rank or before."
    return Markup(figure(chart, text) + details("CMC in numbers", numbers))


def verification_figure(figures: Mapping[str, Any], title: str) -> Markup:
    """How far apart pairs lie, and where to accept them.

    Args:
      figures: see `retrieval.verify`, of the cosine.
      title: of the test.
    """
    counts = figures["histograms"]
    edges = [1 - edge for edge in counts["edges"]][::-1]
    bins = [counts[kind][::-1] for kind in ("positive", "negative")]
    used = [i for i, pair in enumerate(zip(*bins, strict=True)) if any(pair)]
    part = slice(max(used[0] - 1, 0), used[-1] + 2)
    totals = [figures["num_positive"], figures["num_negative"]]
    shares = [[n / total for n in own[part]] for own, total in zip(bins, totals, strict=True)]
    points = figures["operating_points"]
    drawn = min(points, key=lambda point: abs(point["wanted_false_accept_rate"] - ACCEPTED))
    limit = 1 - drawn["threshold"]
    chart = histogram(
        edges[part.start : part.start + len(shares[0]) + 1],
        [Series("one person", [], shares[0]), Series("two people", [], shares[1])],
        title=f"Histograms of the distances of pairs of {title}; accepted up to {limit:.3f}",
        x_label="cosine distance",
        y_label="pairs",
        limit=(limit, f"accept to {limit:.3f}"),
    )
    rows = [
        [
            f"{100 * point['wanted_false_accept_rate']:g}%",
            f"{point['threshold']:.3f}",
            f"{1 - point['threshold']:.3f}",
            f"{100 * point['true_accept_rate']:.1f}%",
            f"{100 * point['false_accept_rate']:.2g}%",
            "yes" if point["resolved"] else "too few pairs",
        ]
        for point in points
    ]
    head = ["wanted", "cosine at least", "distance up to", "one person", "two people", "sure"]
    numbers = table(
        "Thresholds at which no more than the wanted share of pairs of two people is accepted, "
        "and what share of either kind is accepted there",
        head,
        rows,
    )
    text = (
        f"Distances (1 - cosine) of {totals[0]:,} pairs of one person and {totals[1]:,} of two, "
        "each kind in per cent of its own. Accepting to the left of the upright line takes "
        f"{100 * drawn['true_accept_rate']:.1f}% of one person's pairs and "
        f"{100 * drawn['false_accept_rate']:.2g}% of two people's. Equal error rate "
        f"{100 * figures['equal_error_rate']:.2f}%, area under ROC "
        f"{figures['area_under_roc']:.4f}."
    )
    return Markup(figure(chart, text) + details("Thresholds in numbers", numbers))


def hardest_section(
    identities: Sequence[Sequence[Any]], pairs: Sequence[Mapping[str, Any]], *, key: str, title: str
) -> Section:
    """Who is hard to find, and between which cameras.

    Args:
      identities: rows of (identity, picture, queries, mAP, Rank-1), hardest first; fractions.
      pairs: see `retrieval.camera_pairs`; none where cameras are not known.
      key: the section's.
      title: the section's.
    """
    rows = [[pid, look, n, percent(ap), percent(first)] for pid, look, n, ap, first in identities]
    caption = f"The {len(rows)} identities of lowest mAP. In per cent"
    parts: list[str] = [
        table(caption, ["identity", "a query", "queries", "mAP", "Rank-1"], rows, style="looks")
    ]
    if pairs:
        worst = sorted(pairs, key=lambda pair: pair["mAP"])[:10]
        rows = [
            [
                f"{pair['query_camera']} to {pair['gallery_camera']}",
                f"{pair['num_valid_query']:,}",
                percent(pair["mAP"]),
                percent(pair["rank1"]),
            ]
            for pair in worst
        ]
        caption = f"The {len(rows)} pairs of lowest mAP. In per cent"
        hardest = table(caption, ["cameras", "queries", "mAP", "Rank-1"], rows)
        parts = [
            grid(
                [
                    heading("Identities") + parts[0],
                    heading("Camera pairs") + hardest + _matrix(pairs),
                ]
            )
        ]
    else:
        parts.append(paragraph("Cameras are not known, so there are no pairs of them."))
    return Section(key, title, "\n".join(parts))


def _matrix(pairs: Sequence[Mapping[str, Any]]) -> Markup:
    """The mAP of all pairs; the darker the lower."""
    asking = sorted({pair["query_camera"] for pair in pairs})
    asked = sorted({pair["gallery_camera"] for pair in pairs})
    found = {(pair["query_camera"], pair["gallery_camera"]): pair["mAP"] for pair in pairs}
    low, high = min(found.values()), max(found.values())

    def cell(value: float | None) -> Any:
        if value is None:
            return "-"
        share = (high - value) / (high - low) if high > low else 0
        return Cell(percent(value), f"h{min(int(9.999 * share), 9)}")

    rows = [[f"from {a}", *(cell(found.get((a, b))) for b in asked)] for a in asking]
    caption = (
        "mAP in per cent of each camera's queries (rows) in the gallery of another alone "
        "(columns). The darker the harder"
    )
    return table(caption, ["", *(f"in {b}" for b in asked)], rows, style="matrix")


def training_section(
    lines: Sequence[Mapping[str, float]], evaluations: Sequence[Mapping[str, Any]]
) -> Section:
    """What happened while training.

    Args:
      lines: of `metrics.jsonl`.
      evaluations: of one test, by ascending step; as `eval/step_<N>.json`.
    """
    names = {"loss": "loss", "loss_ce": "cross-entropy", "loss_triplet": "triplet"}
    charts = []
    losses = [_series(lines, key, name) for key, name in names.items()]
    losses = [series for series in losses if series.xs]
    if losses:
        last = losses[0].ys[-1]
        text = "The loss and its parts. "
        if len(losses[0].xs) > POINTS:
            text += f"A point is the mean of about {len(losses[0].xs) / POINTS:.0f} lines. "
        charts.append(
            figure(
                line_chart(
                    [thin(series, POINTS) for series in losses],
                    title=f"Loss by step; {last:.3g} at the end",
                    x_label="step",
                    y_label="loss",
                ),
                f"{text}At the end: {last:.3g}.",
            )
        )
    rate = _series(lines, "lr", "learning rate")
    if rate.xs and min(rate.ys) > 0:
        steps = range(0, len(rate.xs), max(1, len(rate.xs) // POINTS))  # means would blur its jumps
        rate = Series(rate.name, [rate.xs[i] for i in steps], [rate.ys[i] for i in steps])
        span = f"from {rate.ys[0]:.3g} to {rate.ys[-1]:.3g}"
        charts.append(
            figure(
                line_chart(
                    [rate],
                    title=f"Learning rate by step, {span}",
                    x_label="step",
                    y_label="learning rate",
                    log=True,
                ),
                f"The learning rate, {span}; the axis is logarithmic.",
            )
        )
    if evaluations:
        charts.append(_progress(evaluations))
    body = grid(charts) if charts else paragraph("This workdir holds no figures of a training.")
    if charts and not losses:
        body = paragraph("This workdir holds no metrics.jsonl of a training.") + body
    return Section("training", "Training", body)


def _series(lines: Sequence[Mapping[str, float]], key: str, name: str) -> Series:
    own = [line for line in lines if key in line]
    return Series(name, [line["step"] for line in own], [line[key] for line in own])


def _progress(evaluations: Sequence[Mapping[str, Any]]) -> Markup:
    steps = [result["step"] for result in evaluations]
    lines = [
        Series("mAP", steps, [result["mAP"] for result in evaluations]),
        Series("Rank-1", steps, [result["cmc"]["1"] for result in evaluations]),
    ]
    last = evaluations[-1]
    name = f"{title_of(last)}, AP: {last['ap']}"
    chart = line_chart(
        lines,
        title=f"mAP and Rank-1 of {name}, by step; mAP {percent(last['mAP'])}% at the end",
        x_label="step",
        y_label="mAP, Rank-1",
        y_range=(0, min(1, 1.2 * max(y for line in lines for y in line.ys)) or 1),
        dots=True,
        show=lambda value: f"{100 * value:.3g}%",
    )
    count = len(steps)
    plural = "evaluations" if count > 1 else "evaluation"
    rows = [[r["step"], percent(r["mAP"]), percent(r["cmc"]["1"])] for r in evaluations]
    numbers = table(f"{name}, in per cent", ["step", "mAP", "Rank-1"], rows)
    caption = f"{count} {plural} of {name}."
    return Markup(figure(chart, caption) + details("Evaluations in numbers", numbers))
