"""The report's page: sections to one HTML file that needs nothing else.

Whatever is text is escaped here and nowhere else: callers give plain strings.
"""

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

JPEG_QUALITY = 90
_WIDE = 700  # pixels; on a phone a wider picture is scrolled sideways, not shrunk

# Also tells the browser to load nothing, so that a mistake here cannot call out.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --soft: #595959; --line: #ccc;
  --link: #0b57d0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #161616; --soft: #a8a8a8;
  --line: #444; --link: #8ab4f8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: 0 1.25rem; padding: 0; list-style: none; }
nav a { display: inline-block; padding: .6rem 0; }
section { border-top: 1px solid var(--line); margin-top: 1.5rem; }
h1 { line-height: 1.2; }
p, figcaption { max-width: 45rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem 1rem; }
dt { color: var(--soft); }
dd { margin: 0; }
figure { margin: 1rem 0; }
figcaption { margin-top: .5rem; color: var(--soft); }
img { display: block; max-width: 100%; height: auto; background: #fff; }
.scroll { overflow-x: auto; }
.scroll:focus-visible, a:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
@media (max-width: 48rem) { .scroll img { max-width: none; } }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { white-space: nowrap; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child { text-align: left; padding-left: 0; }
"""


class Section(NamedTuple):
    """A part of the page."""

    key: str
    """Its anchor: letters, digits and hyphens."""
    title: str
    body: str
    """HTML, made by the functions below."""


def write_page(
    path: str | os.PathLike, *, title: str, facts: Mapping[str, Any], sections: Sequence[Section]
) -> None:
    """Writes the page.

    Args:
      path: file to write; its folder must exist.
      title: the page's.
      facts: what this is a report of; name to value.
      sections: in the order of the page.
    """
    links = "".join(f'<li><a href="#{s.key}">{html.escape(s.title)}</a></li>' for s in sections)
    parts = "\n".join(_section(section) for section in sections)
    name = html.escape(title)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{name}</h1>
{definitions(facts)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{parts}
</main>
</body>
</html>
"""
    Path(path).write_text(page, encoding="utf-8")


def _section(section: Section) -> str:
    heading = f'<h2 id="{section.key}-title">{html.escape(section.title)}</h2>'
    start = f'<section id="{section.key}" aria-labelledby="{section.key}-title">'
    return f"{start}\n{heading}\n{section.body}\n</section>"


def paragraph(text: str) -> str:
    """Running text."""
    return f"<p>{html.escape(text)}</p>"


def definitions(facts: Mapping[str, Any]) -> str:
    """Names and their values."""
    rows = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in facts.items()
    )
    return f"<dl>{rows}</dl>"


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; each row's first cell is its heading. Scrolled sideways where it is too wide."""
    columns = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{html.escape(str(first))}</th>'
        + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in rest)
        + "</tr>\n"
        for first, *rest in rows
    )
    body = f"<table>\n<thead><tr>{columns}</tr></thead>\n<tbody>{lines}</tbody>\n</table>"
    # Not <caption>, which would be scrolled away with the table.
    name = f"<figcaption>{html.escape(caption)}</figcaption>"
    return f"<figure>\n{name}\n{_scroll(body, caption)}\n</figure>"


def picture(path: str | os.PathLike, *, alt: str, caption: str) -> str:
    """A picture and its caption, embedded as JPEG: photographs are much smaller so than as PNG.

    Args:
      path: of a file that Pillow reads.
      alt: what it shows, for those who do not see it.
      caption: how to read it.
    """
    buffer = io.BytesIO()
    with Image.open(path) as image:
        width, height = image.size
        # No chroma subsampling: it would smear thin coloured lines and letters.
        image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    name = html.escape(alt)
    body = f'<img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}"'
    body += f' alt="{name}">'
    body = _scroll(body, alt) if width > _WIDE else body
    return f"<figure>\n{body}\n<figcaption>{html.escape(caption)}</figcaption>\n</figure>"


def _scroll(body: str, label: str) -> str:
    """Lets a wide thing be scrolled sideways, by touch and, once it has the focus, by the keys."""
    name = html.escape(label)
    return f'<div class="scroll" role="group" aria-label="{name}" tabindex="0">\n{body}\n</div>'
