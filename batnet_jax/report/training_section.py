"""The section of the report that shows how a network was trained."""

from collections.abc import Mapping, Sequence
from typing import Any

from batnet_jax.report.charts import Series, line_chart, thin
from batnet_jax.report.page import (
    Markup,
    Section,
    details,
    figure,
    grid,
    paragraph,
    table,
)
from batnet_jax.report.sections import percent, title_of

MAX_POINTS = 400
"""Points of a curve: one for each pixel of its width."""

_LOSSES = {
    "loss": "loss",
    "loss_ce": "cross-entropy",
    "loss_triplet": "triplet",
    "loss_circle": "circle",
}


def training_section(
    lines: Sequence[Mapping[str, float]], evaluations: Sequence[Mapping[str, Any]]
) -> Section:
    """Make the section of losses, learning rate and evaluations by training step.

    Args:
      lines: of `metrics.jsonl`.
      evaluations: of one test, by ascending step; each as in `eval/step_<N>.json`.
    """
    losses = [_series(lines, key, name) for key, name in _LOSSES.items()]
    losses = [series for series in losses if series.xs]
    rate = _series(lines, "lr", "learning rate")
    charts, texts = [], []  # one point makes no chart
    if losses and len(losses[0].xs) > 1:
        charts.append(_loss_figure([series for series in losses if len(series.xs) > 1]))
    elif losses:
        texts.append(f"Loss at step {losses[0].xs[0]:,}: {losses[0].ys[0]:.3g}.")
    if len(rate.xs) > 1 and min(rate.ys) > 0:
        charts.append(_rate_figure(rate))
    elif rate.xs:
        texts.append(f"Learning rate at step {rate.xs[-1]:,}: {rate.ys[-1]:.3g}.")
    if len(evaluations) > 1:
        charts.append(_evaluation_figure(evaluations))
    elif evaluations:
        texts.append(
            "One step has been evaluated; --config.eval.every_epochs=1 evaluates during training."
        )
    if not losses:
        what = "metrics.jsonl from training" if evaluations else "figures from training"
        texts.insert(0, f"This workdir holds no {what}.")
    words = [paragraph(text) for text in texts]
    return Section("training", "Training", "\n".join([*words, *([grid(charts)] if charts else [])]))


def _series(lines: Sequence[Mapping[str, float]], key: str, name: str) -> Series:
    own = [line for line in lines if key in line]
    return Series(name, [line["step"] for line in own], [line[key] for line in own])


def _loss_figure(losses: Sequence[Series]) -> Markup:
    last = losses[0].ys[-1]
    chart = line_chart(
        [thin(series, MAX_POINTS) for series in losses],
        title=f"Loss by step; {last:.3g} at the end",
        x_label="step",
        y_label="loss",
    )
    text = "The loss and its parts. "
    if len(losses[0].xs) > MAX_POINTS:
        mean_of = len(losses[0].xs) / MAX_POINTS
        text += f"Each point is the mean of about {mean_of:.0f} log lines. "
    return figure(chart, f"{text}At the end: {last:.3g}.")


def _rate_figure(rate: Series) -> Markup:
    steps = range(0, len(rate.xs), max(1, len(rate.xs) // MAX_POINTS))  # means would blur its jumps
    rate = Series(rate.name, [rate.xs[i] for i in steps], [rate.ys[i] for i in steps])
    span = f"from {rate.ys[0]:.3g} to {rate.ys[-1]:.3g}"
    chart = line_chart(
        [rate],
        title=f"Learning rate by step, {span}",
        x_label="step",
        y_label="learning rate",
        log=True,
    )
    return figure(chart, f"The learning rate, {span}; the axis is logarithmic.")


def _evaluation_figure(evaluations: Sequence[Mapping[str, Any]]) -> Markup:
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
    rows = [[r["step"], percent(r["mAP"]), percent(r["cmc"]["1"])] for r in evaluations]
    numbers = table(f"{name}, in per cent", ["step", "mAP", "Rank-1"], rows)
    caption = f"{len(steps)} evaluations of {name}."
    return Markup(figure(chart, caption) + details("Evaluations in numbers", numbers))
