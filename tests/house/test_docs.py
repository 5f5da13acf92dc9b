"""What the documents name must exist."""

import ast
import re

import pytest
from support.paths import PAGES, ROOT

from batnet_jax.config import default_config, flatten

NAMED = re.compile(r"\[`(\w+)`\]\(([^)\s]+\.py)\)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
FIELD = re.compile(r"--config\.([a-z_]+(?:\.[a-z_]+)*)|`([a-z_]+\.[a-z_]+)(?:=[^`]*)?`")


def defined(path):
    """The names that a module defines or imports at its top."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = LINK.findall(page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_code_exists(page):
    found = NAMED.findall(page.read_text())
    assert [f"{n} in {p}" for n, p in found if n not in defined((page.parent / p).resolve())] == []
    assert found or page.name != "paper.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_fields_exist(page):
    config = default_config().to_dict()
    fields = flatten(config)
    for option, field in FIELD.findall(page.read_text()):
        name = option or field
        is_file = name.endswith((".py", ".txt", ".md"))
        if (option or name.split(".")[0] in config) and not is_file:
            assert name in fields, f"{page.name}: {name}"


def test_there_is_a_list_of_all_pages():
    listed = (ROOT / "docs" / "README.md").read_text()
    pages = (ROOT / "docs").glob("*.md")
    assert [page.name for page in pages if f"({page.name})" not in listed] == ["README.md"]
