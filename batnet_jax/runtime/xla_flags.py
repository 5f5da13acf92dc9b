"""Options of XLA that must be set before JAX computes."""

import importlib.util
import os

OPTION = "xla_cpu_experimental_ynn_fusion_type"  # an option of jax 0.10 and 0.11
LIBRARIES = "individual_dot,reduce"  # the default without individual_convolution


def choose_cpu_libraries() -> None:
    """Make XLA use Eigen, not YNNPACK, for convolutions on a CPU.

    Gradients are several times faster with Eigen, see `benchmarks/convolution.py`. This adds an
    option to XLA_FLAGS unless they contain it, and must be called before JAX computes. It does
    nothing if libtpu is installed, as libtpu aborts on unknown options in XLA_FLAGS.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if OPTION not in flags and importlib.util.find_spec("libtpu") is None:
        os.environ["XLA_FLAGS"] = f"{flags} --{OPTION}={LIBRARIES}".strip()
