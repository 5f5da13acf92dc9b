"""The options of XLA that are set before JAX computes."""

import importlib.util
import os

import jax
import jax.numpy as jnp
import pytest

from batnet_jax.runtime import xla_flags

MACHINE = importlib.util.find_spec  # before a test replaces it


@pytest.mark.parametrize(
    ("flags", "libtpu", "expected"),
    [
        ("", False, f"--{xla_flags.OPTION}={xla_flags.LIBRARIES}"),
        ("--other", False, f"--other --{xla_flags.OPTION}={xla_flags.LIBRARIES}"),
        (f"--{xla_flags.OPTION}=dot", False, f"--{xla_flags.OPTION}=dot"),
        ("--other", True, "--other"),
    ],
)
def test_the_option_is_added_to_the_flags(monkeypatch, flags, libtpu, expected):
    found = {"libtpu": object() if libtpu else None}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: found[name] if name in found else MACHINE(name)
    )
    monkeypatch.setenv("XLA_FLAGS", flags)
    for _ in range(2):  # the second time adds nothing
        xla_flags.choose_cpu_libraries()
        assert os.environ["XLA_FLAGS"] == expected


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA's CPU backend")
def test_xla_obeys():
    """conftest.py has set the option: YNNPACK has no convolutions, and the rest as before."""
    x, kernel, matrix = jnp.ones((8, 16, 16, 64)), jnp.ones((3, 3, 64, 64)), jnp.ones((512, 512))

    def convolve(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)

    def has_ynn(function, *arguments, **options):
        lowered = jax.jit(function).lower(*arguments)
        return "ynn_fusion" in lowered.compile(**options).as_text()

    kinds = [f"LIBRARY_FUSION_TYPE_{k.upper()}" for k in xla_flags.LIBRARIES.split(",")]
    kinds.append("LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION")
    usual = {xla_flags.OPTION: ",".join(kinds)}
    if not has_ynn(convolve, x, kernel, compiler_options=usual):
        pytest.skip("this machine's XLA has no YNNPACK")
    assert not has_ynn(convolve, x, kernel)
    assert has_ynn(jnp.matmul, matrix, matrix)
    assert has_ynn(lambda x: x.sum((0, 1, 2)), x)
