import ast
import re
import subprocess
import sys

import pytest
from support.paths import ROOT

PACKAGE = ROOT / "batnet_jax"

# From the top down: a package imports from rows below its own only. Packages that share a row never
# import each other.
ORDER = {
    "main": "the command line of the process: its streams and its exit status",
    "commands": "every command with its flags and its help; picks the mode",
    "modes": "one file a mode: its `run`",
    "training, export": "a run from start to end; a checkpoint as a file for other programs",
    "inference": "a trained model: restore it, embed images, search a gallery",
    "evaluation, weights": "features and figures of a test; other people's weights in our names",
    "validation": "every setting checked before anything is read or written",
    "workdir": "what a run leaves on the disk",
    "step": "one training step: augmentation, losses, optimizer",
    "models, data, retrieval, report": "networks; images and labels; rankings and figures; pages",
    "runtime": "processes, devices, signals, memory and progress",
    "config, errors, version": "the settings and the exceptions that everything may use",
}
RANK = {name: row for row, names in enumerate(ORDER) for name in names.split(", ")}
MODULES = {p.stem for p in PACKAGE.glob("*.py")} | {
    p.parent.name for p in PACKAGE.glob("*/__init__.py")
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported_names(path):
    """The dotted names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def home(name):
    """The module or subpackage of batnet_jax, in ORDER, that a dotted name lies in."""
    part = name.split(".")[1]
    return part


def test_every_module_has_its_place():
    assert RANK.keys() == MODULES - {"__init__"}


def test_the_root_has_few_files():
    assert len(list(PACKAGE.glob("*.py"))) <= 8


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    # A bare `import batnet_jax` asks for the folder that it lies in.
    names = [name for name in imported_names(path) if name.startswith("batnet_jax.")]
    own_rank = RANK.get(own, -1)  # the package's own __init__ stands above all
    wrong = [n for n in names if home(n) != own and RANK[home(n)] <= own_rank]
    assert wrong == []


def test_contributing_shows_the_same_order():
    rows = [f"| {names} | {reason} |" for names, reason in ORDER.items()]
    assert "\n".join(rows) in (ROOT / "CONTRIBUTING.md").read_text()


def test_the_picture_shows_the_same_order():
    rows = {}
    picture = (ROOT / "docs" / "images" / "house.svg").read_text()
    for height, name in re.findall(r'class="name" x="\d+" y="(\d+)">(\w+)<', picture):
        rows.setdefault(int(height) // 66, []).append(name)
    assert [", ".join(names) for names in rows.values()] == list(ORDER)


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.glob("*/**/__init__.py")), ids=lambda path: path.parent.name
)
def test_a_package_names_its_modules(path):
    said = ast.get_docstring(ast.parse(path.read_text()))
    words = set(re.findall(r"\w+", said or ""))
    modules = {p.stem for p in path.parent.glob("*.py")} - {"__init__"}
    modules |= {p.parent.name for p in path.parent.glob("*/__init__.py")}
    prefixes = tuple(re.findall(r"(\w+_)\*", said or ""))
    assert {name for name in modules - words if not name.startswith(prefixes)} == set()


def test_no_module_is_called_utils():
    assert [path for path in FILES if path.stem in ("utils", "util", "helpers", "misc")] == []


def test_no_file_imports_tensorflow():
    files = [
        p
        for folder in ("batnet_jax", "configs", "tests", "benchmarks")
        for p in (ROOT / folder).rglob("*.py")
    ]
    tops = {(name.split(".")[0], path) for path in files for name in imported_names(path)}
    assert [path for top, path in tops if top == "tensorflow"] == []


def test_no_test_file_imports_another():
    files = sorted((ROOT / "tests").rglob("*.py"))
    named = {(path, part) for path in files for n in imported_names(path) for part in n.split(".")}
    assert [(path, part) for path, part in named if part.startswith("test_")] == []
    # Tests also run code from strings, which the parser does not look into.
    pattern = re.compile(r"^\s*(import|from) test_", re.MULTILINE)
    assert [path for path in files if pattern.search(path.read_text())] == []


def test_starting_imports_neither_tensorflow_nor_torch():
    code = "import sys, batnet_jax.main; print({'tensorflow', 'torch'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.returncode) == ("set()\n", 0), done.stderr


PLAIN = ("runtime", "models", "step", "retrieval", "weights", "evaluation", "inference", "export")
"""Packages whose messages name arguments. Their callers add the names of the fields."""


def messages_of(path):
    """Yield the strings of a file, in f-strings too, but not the docstrings."""
    tree = ast.parse(path.read_text())
    expressions = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in expressions:
            yield node.value


@pytest.mark.parametrize("package", PLAIN)
def test_messages_of_libraries_do_not_name_fields(package):
    files = sorted((PACKAGE / package).rglob("*.py"))
    assert files
    found = [(path, text) for path in files for text in messages_of(path)]
    assert [row for row in found if re.search(r"\bconfig\.(?!json\b|txt\b)", row[1])] == []
    assert any("config.eval.batch" in text for text in messages_of(PACKAGE / "validation.py"))
