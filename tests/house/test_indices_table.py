"""The table of docs/scale.md is what its command prints."""

import indices
from support.paths import ROOT


def test_the_table_is_what_the_command_prints():
    assert indices.table() in (ROOT / "docs" / "scale.md").read_text()


def test_every_contestant_has_a_row():
    rows = indices.read_results()["rows"]
    assert rows
    assert {row["name"] for row in rows} <= set(indices.NAMES)
    assert all(0 <= row["recall"] <= 1 and row["build"] > 0 for row in rows)
