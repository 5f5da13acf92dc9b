"""Every question about a path goes through one helper, which says in a line what is wrong."""

import ast

import pytest
from support.paths import ROOT

PACKAGE = ROOT / "batnet_jax"
QUESTIONS = {"is_dir", "is_file", "exists"}
ALLOWED = {"runtime/paths.py", "data/files/tree.py", "runtime/atomic_write.py"}
"""The helper; members of a .zip, which are no paths; and a loop that passes over any error."""


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.name)
def test_no_path_is_asked_directly(path):
    if str(path.relative_to(PACKAGE)) in ALLOWED:
        return
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    asked = [
        node.lineno
        for node in calls
        if isinstance(node.func, ast.Attribute)
        and node.func.attr in QUESTIONS
        and ast.unparse(node.func.value) not in ("os.path", "paths")
    ]
    assert asked == []
