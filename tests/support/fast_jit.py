"""Compiling in a fraction of the time, which is what tests of networks wait for."""

from functools import partial

import jax

FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
FAST |= {"xla_cpu_use_fusion_emitters": False}  # more than halves the rest of a step's compile time
FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in FAST.items())
"""The same for XLA_FLAGS of a process that begins."""
jit = partial(jax.jit, compiler_options=FAST)
same_rounding_jit = partial(jax.jit, compiler_options=FAST | {"xla_cpu_use_fusion_emitters": True})
"""For programs that differ a little and must agree to the last bits: these round alike."""
