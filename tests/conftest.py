"""Fixtures of several test files."""

import contextlib
import os
import shutil
import tempfile

import jax
import numpy as np
import pytest
from support.chromium import browser, page  # noqa: F401 - fixtures
from support.fake_gcloud import World
from support.tiny_datasets import market  # noqa: F401 - a fixture

from batnet_jax.models import googlenet, resnet
from batnet_jax.runtime.xla_flags import choose_cpu_libraries

pytest_plugins = ["support.skipped"]
CACHE = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config):
    """Runs of the main job find what others of this session have compiled; tests here do not.

    XLA is told what they tell it.
    """
    if CACHE not in os.environ:
        os.environ[CACHE] = tempfile.mkdtemp(prefix="batnet-tests-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(CACHE), ignore_errors=True))
    jax.config.update("jax_compilation_cache_dir", None)
    choose_cpu_libraries()


@pytest.fixture
def float64():
    """JAX computes in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def short_backbone(monkeypatch):
    """One inception in Blk2 and one in Blk3: the wiring without the compile time."""
    monkeypatch.setitem(googlenet.BLOCK_INCEPTIONS, 2, ("3a",))
    monkeypatch.setitem(googlenet.BLOCK_INCEPTIONS, 3, ("4a",))
    monkeypatch.setitem(googlenet.BLOCK_INCEPTIONS, 4, ())


@pytest.fixture
def short_resnet(monkeypatch):
    """A bottleneck a stage, two in the first: one with and one without a projected shortcut."""
    for number, units in enumerate((2, 1, 1, 1), 1):
        monkeypatch.setitem(resnet.UNITS, number, units)


@pytest.fixture
def make_world(tmp_path):
    """What launch/ meets: a world whose machines have `hosts` hosts."""
    with contextlib.ExitStack() as stack:

        def make(hosts):
            return stack.enter_context(contextlib.closing(World(tmp_path, hosts=hosts)))

        yield make


@pytest.fixture
def world(make_world):
    """What launch/ meets, with machines of one host."""
    return make_world(hosts=1)
