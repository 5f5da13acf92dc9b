"""What XLA is told before it starts."""

import importlib.util
import os

OPTION = "xla_cpu_experimental_ynn_fusion_type"  # of jax 0.10 and 0.11
LIBRARIES = "individual_dot,reduce"  # the default's but for individual_convolution


def choose_cpu_libraries() -> None:
    """Lets Eigen, not YNNPACK, convolve on a CPU, which takes gradients several times faster.

    See `benchmarks/convolution.py`.

    To be called before JAX computes; adds to XLA_FLAGS, unless they name the option. Where libtpu
    is installed, nothing: it reads XLA_FLAGS too, and ends a process for an option that it does
    not know.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if OPTION not in flags and importlib.util.find_spec("libtpu") is None:
        os.environ["XLA_FLAGS"] = f"{flags} --{OPTION}={LIBRARIES}".strip()
