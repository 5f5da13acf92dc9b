"""The section of the config: a searchable table that marks changes from the defaults."""

from collections.abc import Mapping
from typing import Any

from batnet_jax.report.page import Markup, Section, escape, table


def settings_section(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> Section:
    """Make the section of the config.

    Args:
      settings: JSON values of the run by dotted field names.
      defaults: JSON values by dotted field names.
    """
    rows, attributes = [], []
    for name, value in settings.items():
        changed = name not in defaults or defaults[name] != value
        default = (
            Markup(f"<code>{escape(value_text(defaults[name]))}</code>")
            if name in defaults
            else "-"
        )
        mark = Markup('<b class="changed">changed</b>') if changed else ""
        text = Markup(f'<code class="value">{escape(value_text(value))}</code>')
        rows.append([name, text, default, mark])
        attributes.append(' class="is-changed"' if changed else "")
    count = sum(map(bool, attributes))
    form = (
        '<form class="search" hidden aria-label="Search the config">'
        '<p><label for="config-search">Field or value</label>'
        '<input id="config-search" type="search" autocomplete="off"></p>'
        '<p><label class="check"><input type="checkbox" id="config-changed">changed only</label>'
        '</p><output aria-live="polite"></output></form>'
    )
    caption = f"{len(rows)} fields; {count} differ from the defaults of batnet_jax/config.py"
    head = ["field", "value", "default", ""]
    body = table(caption, head, rows, style="config", row_attributes=attributes)
    return Section("config", "Config", form + body)


def value_text(value: Any) -> str:
    """Format the value of a field as on the command line."""
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(value_text, value)) + ")"
    return "''" if value == "" else str(value)
