"""Fixtures of several test files, and the order in which the files run."""

import contextlib
import importlib.util
import os
import shutil
import tempfile

import jax
import numpy as np
import pytest
from support import fast_jit, toy_backbone
from support.chromium import browser, open_page, page, phone  # noqa: F401 - fixtures
from support.fake_gcloud import World
from support.paths import ROOT
from support.tiny_datasets import market  # noqa: F401 - a fixture

from batnet_jax.models import googlenet, osnet, resnet
from batnet_jax.runtime.compilation_cache import MAX_BYTES, cache_folder, delete_oldest
from batnet_jax.runtime.xla_flags import choose_cpu_libraries

pytest_plugins = ["support.skipped"]
CACHE = "JAX_COMPILATION_CACHE_DIR"
LONGEST = (
    "training/test_resume", "house/test_kept", "models/test_parity", "weights/test_sources",
    "training/test_faults", "runtime/test_processes", "launch/test_tpu_vm_runs",
    "step/test_losses", "weights/test_import_weights", "training/test_own_parts",
    "modes/test_next_steps", "step/test_freezing", "step/test_averaging", "modes/test_main",
    "models/test_models", "models/test_vit", "retrieval/test_evaluator_properties",
    "runtime/test_devices", "export/test_formats", "models/test_bfloat16", "house/test_benchmarks",
)  # fmt: skip
"""The test files that take longest, which must not begin when the other cores are done."""


def pytest_configure(config):
    """Keep compiled programs for the next tests, and choose XLA's libraries."""
    if CACHE not in os.environ:  # the workers of pytest-xdist inherit it
        os.environ[CACHE] = programs_folder(config)
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", os.environ[CACHE])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    choose_cpu_libraries()
    compile_faster()
    toy_backbone.install()
    config.option.loadscopereorder = False  # pytest-xdist keeps the order of the next function


def compile_faster():
    """Let LLVM not optimise programs of the CPU: most tests compile longer than they compute."""
    flags = os.environ.get("XLA_FLAGS", "")
    if importlib.util.find_spec("libtpu") is None:  # it aborts on flags of a CPU
        os.environ["XLA_FLAGS"] = f"{fast_jit.FLAGS} {flags}"  # the last of two flags counts


def programs_folder(config):
    """Return a folder for this machine's programs in .pytest_cache, or a temporary one."""
    folder = config.rootpath / ".pytest_cache" / cache_folder().name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        delete_oldest(folder, MAX_BYTES)
    except OSError:
        folder = tempfile.mkdtemp(prefix="batnet-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    return str(folder)


def pytest_collection_modifyitems(items):
    """Put the longest files first, so that all cores finish at about the same time."""
    place = {ROOT / "tests" / f"{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture
def float64():
    """Let JAX compute in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng():
    """Return a generator of random numbers with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture
def short_backbone(monkeypatch):
    """Keep one inception in Blk2 and one in Blk3, which compile faster."""
    monkeypatch.setitem(googlenet.BLOCK_INCEPTIONS, 2, ("3a",))
    monkeypatch.setitem(googlenet.BLOCK_INCEPTIONS, 3, ("4a",))
    monkeypatch.setitem(googlenet.BLOCK_INCEPTIONS, 4, ())


@pytest.fixture
def short_resnet(monkeypatch):
    """Keep two bottlenecks in the first stage, with and without a projection, and one in others."""
    for number, units in enumerate((2, 1, 1, 1), 1):
        monkeypatch.setitem(resnet.UNITS, number, units)


@pytest.fixture
def short_osnet(monkeypatch):
    """Keep two streams in an omni-scale block."""
    monkeypatch.setattr(osnet, "STREAMS", 2)


@pytest.fixture
def make_world(tmp_path):
    """Return a function that makes a fake gcloud whose machines have `hosts` hosts."""
    with contextlib.ExitStack() as stack:

        def make(hosts):
            return stack.enter_context(contextlib.closing(World(tmp_path, hosts=hosts)))

        yield make


@pytest.fixture
def world(make_world):
    """Return a fake gcloud whose machines have one host."""
    return make_world(hosts=1)
