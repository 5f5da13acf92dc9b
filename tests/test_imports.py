import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "batnet_jax"

# From the top down: a module imports from its own row and from rows below it only.
ORDER = {
    "__init__": "what `import batnet_jax` offers",
    "main": "flags and modes; calls the rest",
    "tables": "the paper's tables, a training run a row",
    "reporting": "a checkpoint, what it finds and how it was trained, as a page",
    "serving": "a page to search with, in a browser",
    "searching": "a gallery and what is like a query; writes lists and indices",
    "embedding": "a model from its checkpoint alone; images to features",
    "train": "the loop; evaluates at its end",
    "starting": "what a run starts from: nothing, others' weights, its latest checkpoint",
    "exporting": "a checkpoint as a file that runs without this package, and its card",
    "exhibits": "what of a ranked test the report shows",
    "evaluate": "embeds, ranks, writes; `eval` mode needs no `train`",
    "restoring": "the network of a checkpoint, where the config describes it",
    "protocols": "figures on request, as re-ranked ones",
    "pretrained": "weights of others in and out, by name; `init.from`",
    "workdir": "what a run's folder says of it; refuses another run's",
    "validation": "the check of every field; the choices are the rows' below",
    "collection": "what a run trains on and is tested on; data sets by the config's names",
    "schedule, window": "a run in steps and batches; the figures of some of its steps",
    "steps": "one step, a plain function of models, losses and optimizer",
    "accumulation": "a batch in parts, losses of the whole; around `models`, for `steps`",
    "packing": "many arrays as one, for what a step is called with; a leaf",
    "devices": "how arrays lie under pmap; takes the axis's name from `models`",
    "models": "the networks alone, for use in other programs too",
    "losses, optimizer, augment": "pure functions of arrays",
    "data": "files to uint8 batches; knows no network",
    "retrieval": "arrays in, figures out; knows no network and no data set",
    "report": "pictures of results",
    "profiling, interruption": "traces and SIGTERM, around the steps",
    "finite, failures": "NaN, a full disk, too little memory: found and told in a line",
    "checkpoint, journal, environment": "what a run leaves on the disk",
    "selection, events": "the best checkpoint; TensorBoard's files",
    "feature_file": "features and paths on the disk, written by and by, mapped",
    "config": "every field and its default; a leaf",
    "shipped, version": "the configs that come with the package; its version",
    "bucket": "a workdir that is no folder",
    "backend": "what XLA is told before it starts",
    "hosts": "several processes: who leads, what all agree on",
    "errors": "the exceptions that are told in a line",
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
    return part if part in MODULES else "__init__"


def test_every_module_has_its_place():
    assert RANK.keys() == MODULES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    # A bare `import batnet_jax` asks for the folder that it lies in.
    names = [name for name in imported_names(path) if name.startswith("batnet_jax.")]
    upwards = [name for name in names if RANK[home(name)] < RANK[own]]
    assert upwards == []


def test_contributing_shows_the_same_order():
    rows = [f"| {names} | {reason} |" for names, reason in ORDER.items()]
    assert "\n".join(rows) in (ROOT / "CONTRIBUTING.md").read_text()


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


def test_starting_imports_neither_tensorflow_nor_torch():
    code = "import sys, batnet_jax.main; print({'tensorflow', 'torch'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.returncode) == ("set()\n", 0), done.stderr
