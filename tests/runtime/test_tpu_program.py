"""The reading of a program compiled for a TPU, on a program written for it."""

from types import SimpleNamespace

import pytest

from batnet_jax.runtime.tpu_chips import CHIPS
from batnet_jax.runtime.tpu_program import Needs, instructions, needs_of, overflow_of

PROGRAM = """HloModule jit_step

%inside (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %e = f32[8]{0} exponential(%p), backend_config={"estimated_cycles":"99999"}
}

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %f = f32[8]{0} fusion(%x), calls=%inside, metadata={op_name="jvp(blk1)/add"}, backend_config={"window_config":{"estimated_cycles":"7"}}
  ROOT %out = (s32[], f32[8]) tuple(%n, %f)
}

%rare (p: f32[8]) -> f32[8] {
  ROOT %r = f32[8]{0} fusion(%p), calls=%inside, backend_config={"estimated_cycles":"50"}
}

%often (p: f32[8]) -> f32[8] {
  ROOT %o = f32[8]{0} fusion(%p), calls=%inside, backend_config={"estimated_cycles":"20"}
}

ENTRY %main.1 (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %copy.1 = f32[8]{0} copy(%a), metadata={op_name="copy"}
  %first = f32[8]{0} fusion(%a), calls=%inside, metadata={op_name="jvp(blk2)/mul"}, backend_config={"estimated_cycles":"100"}
  %loop = (s32[], f32[8]) while(%start), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %turn = f32[8]{0} conditional(%i, %a, %a), branch_computations={%often, %rare}
  ROOT %last = f32[8]{0} call(%a), to_apply=%often
}
"""  # noqa: E501


def test_cycles_of_loops_calls_and_branches():
    assert list(instructions(PROGRAM)) == [
        ("jvp(blk2)/mul", 100),
        ("jvp(blk1)/add", 5 * 7),  # each round
        ("", 50),  # the dearest branch
        ("", 20),
    ]


def compiled(**cost):
    memory = SimpleNamespace(
        argument_size_in_bytes=100,
        output_size_in_bytes=60,
        alias_size_in_bytes=50,
        temp_size_in_bytes=30,
        generated_code_size_in_bytes=5,
    )
    return SimpleNamespace(
        memory_analysis=lambda: memory, cost_analysis=lambda: cost, as_text=lambda: PROGRAM
    )


def test_results_in_the_place_of_arguments_count_once():
    needs = needs_of(compiled(flops=8.0, **{"bytes accessed": 12.0}))
    assert needs == Needs(110, 30, 5, 8.0, 12.0, 205)
    assert needs.memory == 145


@pytest.mark.parametrize(
    ("flops", "moved", "cycles", "low", "high"),
    [
        (197e12, 0, 3.006e9, 1.0, 4.0),  # a second of products; 2 s by the cycles
        (0, 2 * 819e9, 3.006e9, 2.0, 4.0),  # two seconds of memory
        (197e12, 0, 0.7515e9, 0.5, 2.0),  # an estimate below the roofline
    ],
)
def test_the_range_of_a_time(flops, moved, cycles, low, high):
    found = Needs(0, 0, 0, flops, moved, int(cycles)).seconds(CHIPS["v5e"])
    assert found == pytest.approx((low, high), rel=1e-3)


def test_a_program_that_does_not_fit_says_what_it_needs():
    for message in (
        "Ran out of memory in memory space hbm. Used 20.10G of 15.75G hbm. Exceeded hbm capacity",
        "the total memory required for HLO temporaries (20.10G) exceeds available HBM (15.75G).",
    ):
        needed, there = overflow_of(RuntimeError(message)) or (0, 0)
        assert needed == pytest.approx(20.1 * 2**30)
        assert there == pytest.approx(15.75 * 2**30)
    assert overflow_of(RuntimeError("something else")) is None
