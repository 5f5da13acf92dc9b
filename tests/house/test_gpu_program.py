"""The counting of a compiled program's kernels, on a program written for it."""

import subprocess
import sys
from pathlib import Path

import gpu_program
import pytest
from support import needs

PROGRAM = """HloModule jit_step

%fused_reduce (p: bf16[8,4]) -> f32[4] {
  %p = bf16[8,4]{1,0} parameter(0)
  ROOT %r = f32[4]{0} reduce(%p), dimensions={0}
}

%fused_add (p: f32[4]) -> f32[4] {
  ROOT %a = f32[4]{0} add(%p, %p)
}

%body (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %state = (s32[], f32[4]) parameter(0)
  %x = f32[4]{0} get-tuple-element(%state), index=1
  %add.1 = f32[4]{0} fusion(%x), calls=%fused_add, metadata={op_name="jvp(net)/add"}
  ROOT %out = (s32[], f32[4]) tuple(%x, %add.1)
}

ENTRY %main (a: bf16[8,4]) -> f32[4] {
  %a = bf16[8,4]{1,0} parameter(0)
  %sum = f32[4]{0} fusion(%a), calls=%fused_reduce, metadata={op_name="transpose(jvp(net))/sum"}
  %loop = (s32[], f32[4]) while(%start), body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %product = (f32[4,4]{1,0}, s8[4194304]{0}) custom-call(%a), custom_call_target="__cublas$lt"
  ROOT %copy.1 = f32[4]{0} copy(%sum)
}
"""


def test_kernels_are_counted_by_kind_and_part():
    assert gpu_program.count_kernels(PROGRAM) == {
        ("reduction", "backward"): [1, 8 * 4 * 2 + 4 * 4],
        ("elementwise", "forward"): [5, 5 * 2 * 4 * 4],
        ("product, convolution", "rest"): [1, 8 * 4 * 2 + 4 * 4 * 4],
        ("copy", "rest"): [1, 2 * 4 * 4],
    }


@pytest.mark.slow
def test_the_step_is_compiled_for_a_gpu_that_is_not_there(tmp_path):
    needs.installed("jax_plugins.xla_cuda13")
    root = Path(__file__).parents[1]
    command = [sys.executable, str(root / "benchmarks/gpu_program.py"), "--width=0.125"]
    small = ["--batch=12", "--size", "64", "32", f"--hlo={tmp_path / 'hlo'}"]
    done = subprocess.run([*command, *small], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "__cudnn$conv" in (tmp_path / "hlo").read_text()
    assert done.stdout.splitlines()[-1].startswith("| all |")
