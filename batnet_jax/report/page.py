"""The report's page: HTML elements, and sections joined to one self-contained file.

Text is escaped here and nowhere else: callers pass plain strings, and the functions of this package
return `Markup`.
"""

import base64
import hashlib
import html
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from batnet_jax.errors import printable
from batnet_jax.runtime.atomic_write import write_atomically

_FOLDER = files("batnet_jax.report")
_STYLES = ("base.css", "page.css")
_SCRIPTS = ("page.js", "zoom.js")


class Markup(str):
    """A string of HTML; every other string is text to escape."""

    __slots__ = ()


class Section(NamedTuple):
    """A part of the page."""

    key: str
    """Its anchor: letters, digits and hyphens."""
    title: str
    body: str
    """HTML from the functions of this package."""


def write_page(
    path: str | os.PathLike,
    *,
    title: str,
    facts: Mapping[str, Any],
    sections: Sequence[Section],
    styles: str = "",
) -> None:
    """Write the page.

    Args:
      path: the file; it is written as a whole or not at all.
      title: the page's.
      facts: the subject of the report, as names and values.
      sections: in the order of the page.
      styles: more CSS, such as the `Thumbnails`'.
    """
    links = "".join(f'<li><a href="#{s.key}">{escape(s.title)}</a></li>' for s in sections)
    parts = "\n".join(_section(section) for section in sections)
    name = escape(title)
    style, script = (read_parts(files) for files in (_STYLES, _SCRIPTS))
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{name}</title>
<style>
{style}{styles}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<h1>{name}</h1>
{definitions(facts)}
</header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main id="content" tabindex="-1">
{parts}
</main>
{_ZOOM}
{_ICONS}
<script>{script}</script>
</body>
</html>
"""
    write_atomically(Path(path), page)


def read_parts(names: Sequence[str]) -> str:
    """Join some of this package's files of CSS or JavaScript."""
    return "\n".join(_FOLDER.joinpath(name).read_text("utf-8") for name in names)


def _policy(script: str) -> str:
    """Return the policy that makes the browser load nothing and run only our script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )


_ZOOM = """<dialog id="zoom" aria-labelledby="zoom-title">
<h2 id="zoom-title"></h2>
<div class="pair"></div>
<div class="buttons"><button type="button" data-step="-1">Previous</button>
<button type="button" data-step="1">Next</button>
<button type="button" data-step="0">Close</button></div>
</dialog>"""
"""The window in which the script shows an image large."""

# Drawings, because not every font has a tick and a cross.
_ICONS = """<svg class="icons" aria-hidden="true" width="0" height="0">
<symbol id="icon-right" viewBox="0 0 16 16"><path d="M2.5 8.5l3.7 4L13.5 4"/></symbol>
<symbol id="icon-wrong" viewBox="0 0 16 16"><path d="M3.5 3.5l9 9M12.5 3.5l-9 9"/></symbol>
<symbol id="icon-same" viewBox="0 0 16 16"><circle cx="8" cy="8" r="5.5"/>
<path d="M4.2 11.8l7.6-7.6"/></symbol>
</svg>"""


def escape(value: Any) -> str:
    """Return text escaped for HTML, with control characters written out; `Markup` unchanged."""
    return value if isinstance(value, Markup) else html.escape(printable(str(value)))


def icon(name: str) -> Markup:
    """Make an icon, `right`, `wrong` or `same`; the caller must put the word beside it."""
    return Markup(f'<svg class="icon" aria-hidden="true"><use href="#icon-{name}"/></svg>')


def _section(section: Section) -> str:
    """Make a section that can be folded; the script folds all but the first on a phone."""
    heading = f'<summary><h2 id="{section.key}-title">{escape(section.title)}</h2></summary>'
    start = f'<section id="{section.key}" aria-labelledby="{section.key}-title">'
    fold = f'<details class="fold" open>{heading}\n{section.body}\n</details>'
    return f"{start}\n{fold}\n</section>"


def paragraph(text: str, style: str = "") -> Markup:
    """Make a paragraph of text."""
    kind = f' class="{style}"' if style else ""
    return Markup(f"<p{kind}>{escape(text)}</p>")


def heading(text: str) -> Markup:
    """Make the title of a part of a section."""
    return Markup(f"<h3>{escape(text)}</h3>")


def definitions(facts: Mapping[str, Any], style: str = "facts") -> Markup:
    """Make a list of names and values."""
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return Markup(f'<dl class="{style}">{rows}</dl>')


def grid(parts: Iterable[str], style: str = "grid") -> Markup:
    """Lay out parts side by side, or one below the other on a narrow screen."""
    panels = "\n".join(f'<div class="panel">{part}</div>' for part in parts)
    return Markup(f'<div class="{style}">{panels}</div>')


def details(summary: str, body: str) -> Markup:
    """Make a part that opens on request."""
    return Markup(f"<details><summary>{escape(summary)}</summary>\n{body}\n</details>")


def figure(body: str, caption: str) -> Markup:
    """Make a figure with a caption."""
    return Markup(f"<figure>\n{body}\n<figcaption>{escape(caption)}</figcaption>\n</figure>")


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    style: str = "",
    row_attributes: Sequence[str] = (),
) -> Markup:
    """Make a table; each row's first cell is its heading. A wide table scrolls sideways.

    Args:
      caption: above the table.
      head: the column headings.
      rows: text, `Markup`, or `Cell` for a cell with a CSS class.
      style: the CSS class of the table.
      row_attributes: HTML attributes of each row; none by default.
    """
    columns = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    attributes = row_attributes or [""] * len(rows)
    lines = "".join(
        f'<tr{own}><th scope="row">{escape(first)}</th>' + "".join(map(_cell, rest)) + "</tr>\n"
        for own, (first, *rest) in zip(attributes, rows, strict=True)
    )
    kind = f' class="{style}"' if style else ""
    body = f"<table{kind}>\n<thead><tr>{columns}</tr></thead>\n<tbody>{lines}</tbody>\n</table>"
    # Not a <caption>, which would scroll away with the table.
    name = f"<figcaption>{escape(caption)}</figcaption>"
    return Markup(f'<figure class="table">\n{name}\n{_scroll(body, caption)}\n</figure>')


class Cell(NamedTuple):
    """A table cell with a CSS class."""

    text: Any
    style: str


def _cell(cell: Any) -> str:
    if isinstance(cell, Cell):
        return f'<td class="{cell.style}">{escape(cell.text)}</td>'
    return f"<td>{escape(cell)}</td>"


def _scroll(body: str, label: str) -> str:
    """Make a box that scrolls a wide element sideways, by touch or, when focused, by keys."""
    name = escape(label)
    return f'<div class="scroll" role="group" aria-label="{name}" tabindex="0">\n{body}\n</div>'
