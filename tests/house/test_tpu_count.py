"""benchmarks/tpu_count.py: how it counts bundles, and its table in the documents."""

import json

import pytest
import tpu_count
from support.paths import ROOT

from batnet_jax.retrieval.streaming import count_mosaic

SUMS = """
 0x0   :  { s = sadd }
 0x1 LB: > { loop body
iteration_bounds: (8, 32)
 0x5   : > { %1 = sbr.rel (%p) target = $region9 }
 0xa   :  { %53 = sbr.rel (!%p4) target = $region1 }
 0xb   :  { done }
"""
KERNEL = """
 0x0   :  { start
iteration_bounds: (64)
 0x1 LB: > { program }
 0x2 LB: >> { step }
 0x3   : >> { step }
 0x4 LB: >>> { round }
 0x5   : >>> { %1 = sbr.rel (%p) target = $region5 }
 0x6   : >>> { mixed }
 0x9 PF: >>> { %2 = sbr.rel (%p) target = $region6 }
 0xa   : >>> { %3 = sbr.rel (!%p) target = $region1 }
 0xb   : >> { %4 = sbr.rel (!%p) target = $region2 }
"""


def test_bundles_of_the_sums_are_those_of_a_round_times_the_rounds():
    parts = {"convert_reduce_fusion.1": SUMS, "copy.2": SUMS}
    assert tpu_count.bundles_of_sums(parts) == 256 * 10 * 16


def test_a_round_of_the_kernel_takes_one_of_two_branches():
    rounds = tpu_count.CHUNK // count_mosaic._ROUND
    found = tpu_count.bundles_of_kernel({"count_ahead.1": KERNEL, "copy.2": SUMS})
    assert found == {"no ties": 64 * 16 * (3 + rounds * 3), "ties": 64 * 16 * (3 + rounds * 5)}


def test_the_table_is_that_of_the_result_file():
    page = (ROOT / "docs" / "performance.md").read_text()
    lines = (ROOT / "docs" / "results" / "tpu_count.jsonl").read_text().splitlines()
    assert len(lines) == 4
    for row in map(json.loads, lines):
        assert f"| {row['chip']} | {row['sums'] / 1e6:.1f} | {row['no ties'] / 1e6:.1f} (" in page
        assert row["ties"] < row["sums"]


@pytest.mark.slow
def test_the_kernel_is_compiled_for_a_tpu():
    pytest.importorskip("libtpu")
    sums = tpu_count.bundles_of_sums(tpu_count.schedules("v5e", "sums"))
    kernel = tpu_count.bundles_of_kernel(tpu_count.schedules("v5e", "kernel"))
    assert kernel["no ties"] < kernel["ties"] < sums
