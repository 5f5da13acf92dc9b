"""The config files that come with the package, found by name."""

import os
from pathlib import Path

import batnet_jax

SAVED = str(Path(__file__).with_name("saved_config.py"))
"""The config file that reads a workdir's config."""


def config_folder() -> Path:
    """Return the folder of the config files, in the installed package or in the source tree."""
    package = Path(batnet_jax.__file__).parent
    installed = package / "configs"  # setup.py puts them there in a wheel
    return installed if os.path.isdir(installed) else package.parent / "configs"


def config_names() -> list[str]:
    """Return the names that `find_config` knows."""
    return sorted(path.stem for path in config_folder().glob("*.py"))


def find_config(name: str) -> str:
    """Return the path of a config file: the user's file, else the package's file of that name.

    Args:
      name: a path such as `mine.py`, or a config of the package, as `demo` or `configs/demo.py`.
    Returns: the path; `name` itself if no file is found.
    """
    shipped = config_folder() / f"{Path(name).stem}.py"
    asked = name in (shipped.stem, f"configs/{shipped.name}")
    return str(shipped) if asked and not os.path.isfile(name) and os.path.isfile(shipped) else name
