"""The files of configs/."""

import runpy

from support.paths import ROOT


def run_config(name):
    """Run `configs/<name>.py`; return its global names, `__doc__` among them."""
    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))


def load_config(name):
    """Return the config of `configs/<name>.py`."""
    return run_config(name)["get_config"]()
