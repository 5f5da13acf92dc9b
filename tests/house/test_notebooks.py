"""The notebooks of the documentation: small, whole, and running."""

import base64
import json
import re

import pytest
from support import needs
from support.paths import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
MOST_BYTES = 200_000


def outputs(notebook):
    return [out for cell in notebook["cells"] for out in cell.get("outputs", [])]


def pictures(notebook):
    found = [out.get("data", {}) for out in outputs(notebook)]
    return [data[kind] for data in found for kind in ("image/jpeg", "image/png") if kind in data]


def test_there_is_a_notebook():
    assert [path.name for path in NOTEBOOKS] == ["first.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_its_outputs_are_kept_and_small(path):
    text = path.read_text()
    notebook = json.loads(text)
    assert len(text) < MOST_BYTES
    assert len(pictures(notebook)) == 2
    for picture in pictures(notebook):
        assert base64.b64decode(picture)[:2] == b"\xff\xd8"  # JPEG
    assert "error" not in [out["output_type"] for out in outputs(notebook)]
    assert not re.search(r"/(root|home|tmp|opt)/", json.dumps(outputs(notebook)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_its_links_lead_somewhere(path):
    cells = json.loads(path.read_text())["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_runs(path, tmp_path, monkeypatch):
    needs.installed("nbclient", "nbformat", "ipykernel", "pandas")
    import nbclient
    import nbformat

    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=1500, resources=place).execute()
    assert len(pictures(notebook)) == 2
    text = json.dumps(outputs(notebook))
    assert re.search(r"mAP \d+%, Rank-1 \d+%", text)
    assert "Traceback" not in text
    assert (tmp_path / "runs" / "first" / "checkpoints" / str(steps_of(notebook))).is_dir()


def steps_of(notebook):
    """Return the steps that the notebook trains for."""
    code = "".join(cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    return int(re.search(r"config\.steps, .* = (\d+),", code)[1])
