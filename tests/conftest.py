"""Fixtures of several test files."""

import jax
import pytest

from batnet_jax.models import googlenet


@pytest.fixture
def float64():
    """JAX computes in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def short_backbone(monkeypatch):
    """One inception in Blk2 and one in Blk3: the wiring without the compile time."""
    monkeypatch.setitem(googlenet.BLOCK_INCEPTIONS, 2, ("3a",))
    monkeypatch.setitem(googlenet.BLOCK_INCEPTIONS, 3, ("4a",))
    monkeypatch.setitem(googlenet.BLOCK_INCEPTIONS, 4, ())
