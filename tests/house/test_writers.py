"""No file is written in place: `runtime/atomic_write.py` is the way to the disk."""

import ast

import pytest
from support.paths import ROOT

PACKAGE = ROOT / "batnet_jax"
ALLOWED = {
    "runtime/atomic_write.py": "the way itself",
    "workdir/gcs.py": "objects in a bucket appear as a whole, and local copies of them",
    "workdir/tensorboard.py": "a new file that grows",
    "workdir/metrics_log.py": "a file that grows by lines",
    "data/loading/cache.py": "a temporary path",
    "data/builder.py": "a folder that is renamed when complete",
    "data/label_index.py": "a temporary path",
    "data/pedestrians/draw.py": "into memory",
    "evaluation/parquet/seal.py": "a temporary path",
    "inference/feature_file.py": "a temporary path",
    "inference/index_file.py": "a temporary path",
    "inference/save_index.py": "by index_file.py",
    "modes/search.py": "by index_file.py",
    "runtime/processes.py": "the null device",
    "report/ranked_list.py": "into memory",
    "report/thumbnails.py": "into memory",
    "evaluation/query_figures.py": "into memory",
    "retrieval/streaming/kept_counts.py": "into memory",
}
METHODS = {"write_text", "write_bytes", "write_index", "savez", "savez_compressed", "tofile"}


def writes(tree):
    """Yield the line of each call that writes a file."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        words = [a.value for a in [*node.args, *(k.value for k in node.keywords)]
                 if isinstance(a, ast.Constant) and isinstance(a.value, str)]  # fmt: skip
        opens = name == "open" and any(set(word) & set("wax+") and len(word) < 4 for word in words)
        saves = name == "save" and (
            any(isinstance(a, ast.Constant) and isinstance(a.value, str) for a in node.args[1:])
            or any(k.arg == "format" for k in node.keywords)
        )
        if name in METHODS or opens or saves:
            yield node.lineno


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.name)
def test_files_are_written_atomically(path):
    found = list(writes(ast.parse(path.read_text())))
    if str(path.relative_to(PACKAGE)) in ALLOWED:
        assert found, "nothing is written here any more: take it off the list"
    else:
        assert found == []
