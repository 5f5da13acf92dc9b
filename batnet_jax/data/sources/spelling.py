"""Finds identities whose names differ so little that they may be one person, or one by mistake."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

from batnet_jax.data.sources.file_labels import Labels

MAX_SHOWN = 3
"""Groups of names in a message."""


def spelling_warnings(labels: Iterable[Labels]) -> list[str]:
    """Return warnings of numbers that are one identity, and of names that look like one."""
    spellings = defaultdict(set)
    for one in labels:
        spellings[one.identity].add(one.spelling)
    merged = [sorted(found) for found in spellings.values() if len(found) > 1]
    lines = []
    if merged:
        lines.append(f"one identity is spelled in several ways: {_show(merged)} are one person")
    if alike := similar_names(list(spellings)):
        lines.append(
            "identities that differ only by case or Unicode normal form are different people: "
            f"{_show(alike)}"
        )
    return lines


def similar_names(names: Sequence[str]) -> list[list[str]]:
    """Return the groups of names that differ only by case or Unicode normal form, sorted."""
    groups = defaultdict(set)
    for name in names:
        folded = unicodedata.normalize("NFC", name).casefold()
        groups[unicodedata.normalize("NFC", folded)].add(name)
    return sorted(sorted(found) for found in groups.values() if len(found) > 1)


def _show(groups: Sequence[Sequence[str]]) -> str:
    shown = "; ".join(show_names(group) for group in groups[:MAX_SHOWN])
    return f"{shown}; ..." if len(groups) > MAX_SHOWN else shown


def show_names(names: Sequence[str]) -> str:
    """Return names in quotes; characters of two normal forms, which look the same, are escaped."""
    same = len({unicodedata.normalize("NFC", name) for name in names}) < len(names)
    return ", ".join(ascii(name) if same else f"'{name}'" for name in names)
