"""A comparison of runs as text for the terminal."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from batnet_jax.errors import printable
from batnet_jax.report.comparison import NAMES, p_text, signed, span, spread
from batnet_jax.report.sections import percent, title_of
from batnet_jax.report.settings import value_text


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """Return the text of a comparison; see `evaluation.compare`."""
    parts = [_figures(comparison), _differences(comparison)]
    if any(len(group["runs"]) > 1 for group in comparison["groups"]):
        parts.append(_seeds(comparison))
    parts.append(_settings(comparison))
    return "\n\n".join(parts) + "\n"


def _figures(comparison: Mapping[str, Any]) -> str:
    test, method, runs = comparison["test"], comparison["method"], comparison["runs"]
    title = (
        f"{title_of(test)}: {test['num_valid_query']:,} of {test['num_query']:,} queries, gallery "
        f"{test['num_gallery']:,}, AP: {test['ap']}; in per cent, with {100 * method['level']:.0f}%"
        " intervals"
    )
    rows = [
        [
            run["name"],
            "-" if run["seed"] is None else str(run["seed"]),
            str(run["step"]),
            *(text for key in NAMES for text in (percent(run[key]["value"]), span(run[key]))),
            percent(run["mINP"]),
        ]
        for run in runs
    ]
    head = ["run", "seed", "step", "mAP", "", "Rank-1", "", "mINP"]
    return f"{printable(title)}\n{_table(head, rows)}"


def _differences(comparison: Mapping[str, Any]) -> str:
    rows = [
        [
            row["run"],
            *(
                text
                for key in NAMES
                for text in (signed(row[key]["value"]), span(row[key], signed), _p(row[key]))
            ),
        ]
        for row in comparison["differences"]
    ]
    head = ["run", "mAP", "", "p", "Rank-1", "", "p"]
    number = len(rows)
    title = (
        f"difference to {printable(comparison['runs'][0]['name'])}, in percentage points; p is "
        f"corrected for {number} {'run' if number == 1 else 'runs'}"
    )
    return f"{title}\n{_table(head, rows)}"


def _seeds(comparison: Mapping[str, Any]) -> str:
    groups = comparison["groups"]
    head = ["runs that differ only in the seed", "seeds", *NAMES.values()]
    rows = [
        [group["name"], str(len(group["seeds"])), *(spread(group[key]) for key in NAMES)]
        for group in groups
    ]
    text = _table(head, rows)
    if not comparison["seed_differences"]:
        return text
    rows = [
        [
            groups[row["group"]]["name"],
            str(len(row["seeds"])),
            *(
                text
                for key in NAMES
                for text in (signed(row[key]["mean"]), span(row[key], signed), _p(row[key]))
            ),
        ]
        for row in comparison["seed_differences"]
    ]
    head = ["the same, to the first, seed by seed", "seeds", "mAP", "", "p", "Rank-1", "", "p"]
    return f"{text}\n\n{_table(head, rows)}"


def _p(own: Mapping[str, Any]) -> str:
    return p_text(own["p_holm"])


def _settings(comparison: Mapping[str, Any]) -> str:
    """Return the settings that differ: a line for each value, with the runs that have it."""
    names = [run["name"] for run in comparison["runs"]]
    lines, others = [], []
    for row in comparison["settings"]:
        if not row["changes_weights"]:
            others.append(row["field"])
            continue
        holders: dict[str, list[str]] = {}
        for name, value in zip(names, row["values"], strict=True):
            text = "-" if value is None else value_text(value)
            holders.setdefault(text, []).append(name)
        own = [[row["field"] if not i else "", *pair] for i, pair in enumerate(holders.items())]
        lines += [[field, value, ", ".join(runs)] for field, value, runs in own]
    text = "no setting that changes the network differs"
    if lines:
        text = f"settings that differ\n{_table(['', '', ''], lines, left=3)}"
    if others:
        text += f"\nsettings that differ and cannot change the network: {', '.join(others)}"
    return text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return rows as text in columns; only the first `left` columns are aligned to the left."""
    cells = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [
            (cell + " " * (width - _width(cell)))
            if place < left
            else (" " * (width - _width(cell)) + cell)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(f"  {line}" for line in lines if line)


def _width(text: str) -> int:
    """Return the number of columns that a text fills on a terminal."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)
