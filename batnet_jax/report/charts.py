"""Charts as inline SVG: lines, histograms and intervals.

CSS of the page colours the charts, so they follow the light or dark scheme. Lines also differ by
their dashes. A chart is as narrow as a phone, so that its text stays legible on one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from batnet_jax.report.page import Markup, escape

WIDTH, HEIGHT = 340, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 10, 44
_TICKS = 5
_ROW, _NAME = 44, 30
"""Height of a row in pixels and length of a name in characters, in a chart of intervals."""
STYLES = 8
"""Styles of lines that can be told apart: `.s0` to `.s7` of page.css."""


class Series(NamedTuple):
    """A named line through points."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


class Axis(NamedTuple):
    """A linear or logarithmic map from values to pixels."""

    low: float
    high: float
    start: float
    """The pixel of `low`."""
    end: float
    """The pixel of `high`."""
    log: bool = False

    def at(self, value: float) -> float:
        """Return the position of a value in pixels."""
        low, high, value = (
            (math.log10(v) for v in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 1)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    log: bool = False,
    dots: bool = False,
    show: Callable[[float], str] | None = None,
    styles: Sequence[int] | None = None,
) -> Markup:
    """Draw lines over a common axis, with a legend for more than one style of line.

    Args:
      series: at least one, each of at least one finite point. With `log` all values are above 0.
      title: a description for screen readers.
      x_label: the name of the horizontal axis, with its unit.
      y_label: the name of the vertical axis.
      y_range: limits of the vertical axis; None = chosen from the values.
      log: make the vertical axis logarithmic.
      dots: mark the points, for lines of few points.
      show: formats a value of the vertical axis; None = as short as possible.
      styles: the style of each line, below `STYLES`; None = each line has its own. Lines of one
        style have one name, and share an entry of the legend.
    """
    styles = range(len(series)) if styles is None else styles
    xs = [x for line in series for x in line.xs]
    ys = [y for line in series for y in line.ys]
    low, high = y_range or _padded(min(ys), max(ys), log)
    x_axis = Axis(min(xs), max(xs), _LEFT, WIDTH - _RIGHT)
    y_axis = Axis(low, high, HEIGHT - _BOTTOM, _TOP, log)
    parts = [_axes(x_axis, y_axis, x_label, y_label, show or _short)]
    for number, line in zip(styles, series, strict=True):
        places = [(x_axis.at(x), y_axis.at(y)) for x, y in zip(line.xs, line.ys, strict=True)]
        points = " ".join(f"{x:g},{y:g}" for x, y in places)
        parts.append(f'<polyline class="line s{number}" points="{points}"/>')
        if dots or len(places) == 1:
            parts += [f'<circle class="dot s{number}" cx="{x}" cy="{y}" r="3"/>' for x, y in places]
    names = {number: line.name for number, line in zip(styles, series, strict=True)}
    return Markup(_legend(names if len(names) > 1 else {}, "line") + _drawing(title, parts))


def histogram(
    edges: Sequence[float],
    shares: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    limit: tuple[float, str],
) -> Markup:
    """Draw outlines of histograms over each other, and a vertical line.

    Args:
      edges: [bins + 1], ascending.
      shares: one or two, `ys` [bins] each; `xs` is not read.
      title: a description for screen readers.
      x_label: the name of the horizontal axis.
      y_label: the name of the vertical axis.
      limit: the position of the vertical line, and its label.
    """
    top = max(max(kind.ys) for kind in shares) or 1.0
    x_axis = Axis(edges[0], edges[-1], _LEFT, WIDTH - _RIGHT)
    y_axis = Axis(0, 1.12 * top, HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(x_axis, y_axis, x_label, y_label, lambda value: f"{100 * value:.3g}%")]
    for number, kind in enumerate(shares):
        corners = [(edges[0], 0.0)]
        for left, right, y in zip(edges[:-1], edges[1:], kind.ys, strict=True):
            corners += [(left, y), (right, y)]
        corners.append((edges[-1], 0.0))
        points = " ".join(f"{x_axis.at(x):g},{y_axis.at(y):g}" for x, y in corners)
        parts.append(f'<polygon class="area s{number}" points="{points}"/>')
    place = x_axis.at(limit[0])
    parts.append(f'<path class="limit" d="M{place:g} {_TOP}V{HEIGHT - _BOTTOM}"/>')
    left = place > WIDTH / 2
    parts.append(
        f'<text x="{place + (-5 if left else 5):g}" y="{_TOP + 10}"'
        f' text-anchor="{"end" if left else "start"}">{escape(limit[1])}</text>'
    )
    names = {number: kind.name for number, kind in enumerate(shares)}
    return Markup(_legend(names, "area") + _drawing(title, parts))


class Interval(NamedTuple):
    """A value and its interval, in a row of its own."""

    name: str
    value: float
    low: float
    high: float
    note: str
    """Shown at the end of the row."""
    style: str
    """`higher`, `lower` or `equal`: a class of page.css."""


def interval_chart(
    rows: Sequence[Interval], *, title: str, x_label: str, show: Callable[[float], str]
) -> Markup:
    """Draw values with their intervals in rows, and a vertical line at 0.

    Args:
      rows: at least one.
      title: a description for screen readers.
      x_label: the name of the horizontal axis, with its unit.
      show: formats a value of the axis.
    """
    low, high = min(0, *(row.low for row in rows)), max(0, *(row.high for row in rows))
    margin = 0.06 * (high - low) or 0.01
    axis = Axis(low - margin, high + margin, 10, WIDTH - 10)
    bottom = 8 + _ROW * len(rows)
    parts = []
    for number, row in enumerate(rows):
        y = 8 + _ROW * number
        name = row.name if len(row.name) <= _NAME else f"{row.name[: _NAME - 12]}…{row.name[-11:]}"
        parts.append(f'<text class="label" x="10" y="{y + 11}">{escape(name)}</text>')
        text = escape(row.note)
        parts.append(
            f'<text class="label" x="{WIDTH - 10}" y="{y + 11}" text-anchor="end">{text}</text>'
        )
        # The line at 0 stops at the texts.
        parts.append(f'<path class="zero" d="M{axis.at(0):g} {y + 15}v{_ROW - 15}"/>')
        middle, ends = axis.at(row.value), (axis.at(row.low), axis.at(row.high))
        parts.append(
            f'<path class="interval {row.style}" d="M{ends[0]:g} {y + 18}v8m0 -4H{ends[1]:g}m0'
            f' -4v8"/><circle class="{row.style}" cx="{middle:g}" cy="{y + 22}" r="4"/>'
        )
    parts.append(f'<path class="tick" d="M10 {bottom}H{WIDTH - 10}"/>')
    for value in ticks(axis.low, axis.high):
        x = axis.at(value)
        parts.append(f'<path class="tick" d="M{x:g} {bottom}v4"/>')
        text = escape(show(value))
        parts.append(f'<text x="{x:g}" y="{bottom + 17}" text-anchor="middle">{text}</text>')
    label = f'<text class="label" x="{WIDTH / 2:g}" y="{bottom + 36}" text-anchor="middle">'
    parts.append(f"{label}{escape(x_label)}</text>")
    return Markup(_drawing(title, parts, bottom + 42))


def thin(series: Series, max_points: int) -> Series:
    """Reduce a series of more than `max_points` points to means of neighbouring points."""
    length = len(series.xs)
    if length <= max_points:
        return series
    starts = np.linspace(0, length, max_points, endpoint=False).astype(int)
    sizes = np.diff([*starts, length])
    means = [np.add.reduceat(np.asarray(v, float), starts) / sizes for v in series[1:]]
    return Series(series.name, means[0].tolist(), means[1].tolist())


def ticks(low: float, high: float, max_steps: int = _TICKS) -> list[float]:
    """Return round values between two limits, in steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / max_steps
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten, and 2 and 5 times them if fewer than two are within the limits."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    whole = [10.0**p for p in powers if low <= 10.0**p <= high]
    if len(whole) > 1:
        return whole
    return [k * 10.0**p for p in powers for k in (1, 2, 5) if low <= k * 10.0**p <= high]


def _padded(low: float, high: float, log: bool) -> tuple[float, float]:
    """Return limits with a margin around two values; start at 0 if 0 is near."""
    if log:
        return low / 2, high * 2
    if 0 <= low < 0.5 * high:
        return 0.0, 1.05 * high
    margin = 0.08 * (high - low) or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _short(value: float) -> str:
    if value >= 10_000 and value % 100 == 0:
        return f"{value / 1000:g}k"
    if 0 < abs(value) < 0.01:
        number, _, power = f"{value:e}".partition("e")
        return f"{float(number):.3g}e{int(power)}"
    return f"{value:.4g}"


def _axes(
    x_axis: Axis, y_axis: Axis, x_label: str, y_label: str, show: Callable[[float], str]
) -> str:
    bottom, parts = HEIGHT - _BOTTOM, []
    values = _log_ticks if y_axis.log else ticks
    for value in values(y_axis.low, y_axis.high):
        y = y_axis.at(value)
        parts.append(f'<path class="rule" d="M{_LEFT} {y:g}H{WIDTH - _RIGHT}"/>')
        text = escape(show(value))
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:g}" text-anchor="end">{text}</text>')
    for value in ticks(x_axis.low, x_axis.high):
        x = x_axis.at(value)
        parts.append(f'<path class="tick" d="M{x:g} {bottom}v4"/>')
        anchor = "end" if x > WIDTH - _RIGHT - 8 else "middle"
        text = escape(_short(value))
        parts.append(f'<text x="{x:g}" y="{bottom + 17}" text-anchor="{anchor}">{text}</text>')
    parts.append(f'<path class="tick" d="M{_LEFT} {bottom}H{WIDTH - _RIGHT}"/>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    label = f'<text class="label" x="{middle:g}" y="{HEIGHT - 6}" text-anchor="middle">'
    parts.append(f"{label}{escape(x_label)}</text>")
    high = (_TOP + bottom) / 2
    turned = f'<text class="label" transform="translate(11 {high:g})rotate(-90)"'
    parts.append(f'{turned} text-anchor="middle">{escape(y_label)}</text>')
    return "".join(parts)


def _legend(names: Mapping[int, str], kind: str) -> str:
    items = "".join(
        f'<li><svg class="swatch" viewBox="0 0 28 12" aria-hidden="true">{_swatch(kind, number)}'
        f"</svg>{escape(name)}</li>"
        for number, name in names.items()
    )
    return f'<ul class="legend">{items}</ul>\n' if names else ""


def _swatch(kind: str, number: int) -> str:
    if kind == "line":
        return f'<path class="line s{number}" d="M1 6H27"/>'
    return f'<path class="area s{number}" d="M2 2H26V10H2Z"/>'


def _drawing(title: str, parts: Sequence[str], height: int = HEIGHT) -> str:
    name = escape(title)
    start = f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}">'
    return start + "".join(parts) + "</svg>"
