"""The tables of benchmarks in the documents are those of the kept results."""

import importlib
import json

import pytest
from support import needs
from support.paths import ROOT

TABLES = {"boxes": "trackers.md", "deployed": "export.md"}


@pytest.mark.parametrize("name", TABLES)
def test_the_document_has_the_table_of_the_kept_results(name):
    needs.package("onnxruntime")
    page = (ROOT / "docs" / TABLES[name]).read_text()
    script = importlib.import_module(name)
    found = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())
    assert f"benchmarks/{name}.py" in page
    assert script.table(found) in page, f"paste: {script.table(found)}"
    assert script.about(found).replace("\n", " ") in " ".join(page.split())


def test_tables_from_figures_by_hand():
    needs.package("onnxruntime")
    boxes, deployed = (importlib.import_module(name) for name in TABLES)
    row = {"backbone": "osnet_x0_25", "boxes": 8, "jax_p50": 10, "jax_p99": 20}
    found = {"rows": [row | {"onnx_p50": 15, "onnx_p99": 10}]}
    assert boxes.table(found).splitlines()[2] == (
        "| `osnet_x0_25` | 8 | 10.0 | 20.0 | 15.0 | 10.0 | 1.50 | 0.50 |"
    )
    ways = {
        "jax float32": {"cosine": 1, "lowest_cosine": 1, "mAP": 0.5, "rank1": 0.75, "ms_1": 8},
        "openvino int8": {
            "cosine": 0.99, "lowest_cosine": 0.9, "mAP": 0.4, "rank1": 0.5, "ms_1": 2
        },
    }  # fmt: skip
    lines = deployed.table({"batches": [1], "rows": ways}).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[3].count("|")
    assert lines[3] == "| openvino int8 | 0.99000 | 0.90000 | 0.400 | 0.500 | 2.0 | 4.00 |"
