"""The section of the run: its changed settings, all settings, and where and how long it ran."""

from collections.abc import Mapping, Sequence
from typing import Any

from batnet_jax.report.page import (
    Markup,
    Section,
    definitions,
    details,
    escape,
    heading,
    paragraph,
    table,
)


def settings_section(
    settings: Mapping[str, Any],
    defaults: Mapping[str, Any],
    *,
    facts: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
) -> Section:
    """Make the section of the config, the machine and the versions.

    Args:
      settings: JSON values of the run by dotted field names.
      defaults: JSON values by dotted field names.
      facts: dates, durations and machines, by name.
      versions: of packages, by name.
    """
    changed = [n for n, value in settings.items() if n not in defaults or defaults[n] != value]
    text = f"{len(changed)} of {len(settings)} fields differ from the defaults of the package"
    if changed:
        own = table(text, _HEAD, [_row(name, settings, defaults) for name in changed], style=_STYLE)
    else:
        own = paragraph(f"{text}.")
    parts = [own, details(f"All {len(settings)} fields", _all_fields(settings, defaults, changed))]
    if facts:
        parts += [heading("When, how long, where"), definitions(facts, "facts run")]
    if versions:
        rows = list(versions.items())
        parts.append(details("Versions", table("Installed packages", ["package", "version"], rows)))
    return Section("config", "Settings and machine", "\n".join(parts))


_HEAD = ["field", "value", "default"]
_STYLE = "config"


def _all_fields(
    settings: Mapping[str, Any], defaults: Mapping[str, Any], changed: Sequence[str]
) -> str:
    """Make the table of all fields, and the form that searches it."""
    form = (
        '<form class="search" hidden aria-label="Search the config">'
        '<p><label for="config-search">Field or value</label>'
        '<input id="config-search" type="search" autocomplete="off"></p>'
        '<output aria-live="polite"></output></form>'
    )
    rows = [_row(name, settings, defaults) for name in settings]
    attributes = [' class="is-changed"' if name in changed else "" for name in settings]
    caption = "All fields; those that differ from the defaults are marked"
    head = [*_HEAD, ""]
    marked = [
        [*row, Markup('<b class="changed">changed</b>') if name in changed else ""]
        for name, row in zip(settings, rows, strict=True)
    ]
    return form + table(caption, head, marked, style=_STYLE, row_attributes=attributes)


def _row(name: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[Any]:
    default = (
        Markup(f"<code>{escape(value_text(defaults[name]))}</code>") if name in defaults else "-"
    )
    text = Markup(f'<code class="value">{escape(value_text(settings[name]))}</code>')
    return [name, text, default]


def value_text(value: Any) -> str:
    """Format the value of a field as on the command line."""
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(value_text, value)) + ")"
    return "''" if value == "" else str(value)
