"""What some tests need and not every machine has: a test that needs it is skipped, by its name.

Call these in a test or a fixture, or at the top of a file of which every test needs it.
"""

import importlib
import os
import shutil
import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pytest

INSTALL = {
    "argcomplete": "pip install -e .",
    "axe_playwright_python.sync_playwright": "make browser",
    "duckdb": "make tables",
    "faiss": "pip install -e '.[faiss]'",
    "gcsfs": "pip install -e '.[bucket]'",
    "httpx2": "pip install -e '.[test]'",
    "ipykernel": "make notebook",
    "jax2onnx": "make onnx",
    "jax_plugins.xla_cuda13": "make gpu",
    "lancedb": "pip install -e '.[lancedb]'",
    "libtpu": "pip install -e '.[tpu]'",
    "material": "make docs",
    "mkdocs": "make docs",
    "mkdocstrings": "make docs",
    "onnx": "make onnx",
    "onnxruntime": "make onnx",
    "nncf": "make openvino",
    "openvino": "make openvino",
    "pillow_heif": "pip install -e '.[test]'",
    "nbclient": "make notebook",
    "nbformat": "make notebook",
    "pandas": "make notebook",
    "playwright.sync_api": "make browser",
    "pooch": "pip install -e '.[test]'",
    "polars": "make tables",
    "setuptools": "pip install -e '.[test]'",
    "sklearn": "pip install -e '.[test]'",
    "starlette": "pip install -e '.[serve]'",
    "torch": "make torch",
    "uvicorn": "pip install -e '.[serve]'",
}
"""The packages that may be missing, and what installs each."""


def skip(reason):
    """Skip the test, or the file whose top calls this.

    The report names the line of the caller: of several reports that are equal pytest-xdist hands on
    one.
    """
    __tracebackhide__ = True
    pytest.skip(reason, allow_module_level=True)


def installed(*names):
    """Skip where a package is missing; import none."""
    __tracebackhide__ = True
    for name in names:
        parent = name.rpartition(".")[0]
        if (parent and not find_spec(parent)) or not find_spec(name):
            skip(f"{name} is not installed: {INSTALL[name]}")


def package(name):
    """Return a package; skip where it is missing. One that is there and broken is an error."""
    __tracebackhide__ = True
    installed(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # another library's are not ours to mend
        return importlib.import_module(name)


def release(name, least):
    """Skip where a package is missing, or older than the major version `least`."""
    __tracebackhide__ = True
    try:
        found = version(name)
    except PackageNotFoundError:
        found = "0"
    if int(found.split(".")[0]) < least:
        skip(f"{name} {least} or later is not installed: {INSTALL[name]}")


def program(*names):
    """Return the path of the first of these programs that is found; skip where none is."""
    __tracebackhide__ = True
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        skip(f"not on the PATH: {' or '.join(names)}")
    return found


def shared(*parts):
    """Return the path of a file in the shared folder; skip where it is missing.

    The shared folder holds what the repository may not: lists of the public data sets, the paper's
    text. It lies beside the project, or where the environment variable BATNET_SHARED says.
    """
    __tracebackhide__ = True
    beside = Path(__file__).resolve().parents[3] / "shared"
    folder = Path(os.environ.get("BATNET_SHARED") or beside)
    path = folder.joinpath(*parts)
    if not path.exists():
        skip(f"no {'/'.join(parts)} in {folder}: set BATNET_SHARED to the folder that has it")
    return path
