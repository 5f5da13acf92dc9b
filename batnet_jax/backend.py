"""What XLA is told before it starts."""

import importlib.util
import os

OPTION = "xla_cpu_experimental_ynn_fusion_type"  # of jax 0.10 and 0.11
LIBRARIES = "reduce"  # by default individual_dot and individual_convolution, too


def choose_cpu_libraries() -> None:
    """Lets Eigen, not YNNPACK, convolve and multiply on a CPU.

    Its convolutions are faster, their gradients several times (`benchmarks/convolution.py`); and
    with YNNPACK's products features behind the Bi-attention were 2.5e-4 off float64's on a CPU with
    AVX-512, with Eigen's 1e-7 (`test_exporting.py::test_full_width`).

    To be called before JAX computes; adds to XLA_FLAGS, unless they name the option. Where libtpu
    is installed, nothing: it reads XLA_FLAGS too, and ends a process for an option that it does
    not know.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if OPTION not in flags and importlib.util.find_spec("libtpu") is None:
        os.environ["XLA_FLAGS"] = f"{flags} --{OPTION}={LIBRARIES}".strip()
