"""The config as a table to search in; what differs from the defaults is marked."""

from collections.abc import Mapping
from typing import Any

from batnet_jax.report.page import Markup, Section, escape, table


def settings_section(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> Section:
    """The config.

    Args:
      settings: the run's, by dotted names; JSON.
      defaults: likewise.
    """
    rows, attributes = [], []
    for name, value in settings.items():
        changed = name not in defaults or defaults[name] != value
        default = (
            Markup(f"<code>{escape(_text(defaults[name]))}</code>") if name in defaults else "-"
        )
        mark = Markup('<b class="changed">changed</b>') if changed else ""
        text = Markup(f'<code class="value">{escape(_text(value))}</code>')
        rows.append([name, text, default, mark])
        attributes.append(' class="is-changed"' if changed else "")
    count = sum(map(bool, attributes))
    form = (
        '<form class="search" hidden aria-label="Search the config"><p><label for="config-search">'
        'Field or value</label><input id="config-search" type="search" autocomplete="off"></p>'
        '<p><label class="check"><input type="checkbox" id="config-changed">changed only</label>'
        '</p><output aria-live="polite"></output></form>'
    )
    caption = f"{len(rows)} fields, {count} of them other than batnet_jax/config.py has them"
    head = ["field", "value", "default", ""]
    body = table(caption, head, rows, style="config", row_attributes=attributes)
    return Section("config", "Config", form + body)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_text, value)) + ")"
    return "''" if value == "" else str(value)
