"""The config files that come with the package, found by name."""

import os
from pathlib import Path

import batnet_jax
from batnet_jax.modes import WITHOUT_CONFIG

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
      name: a path like `mine.py`, or one of the package's as `demo` or `configs/demo.py`.
    Returns: the path; `name` itself if no file is found.
    """
    shipped = config_folder() / f"{Path(name).stem}.py"
    asked = name in (shipped.stem, f"configs/{shipped.name}")
    return str(shipped) if asked and not os.path.isfile(name) and os.path.isfile(shipped) else name


def name_configs(argv: list[str]) -> list[str]:
    """Return a command line with the value of `--config` replaced by the config file's path."""
    named, before = [], ""
    for argument in argv:
        flag, equals, value = argument.partition("=")
        if before in ("-config", "--config"):
            argument = find_config(argument)
        elif equals and flag in ("-config", "--config"):
            argument = f"{flag}={find_config(value)}"
        named.append(argument)
        before = argument
    return name_saved_config(named)


def name_saved_config(argv: list[str]) -> list[str]:
    """Return a command line that changes fields without naming a config, with the workdir's config.

    Other command lines are returned as they are.
    """
    names = [word.lstrip("-").partition("=")[0] for word in argv if word.startswith("-")]
    changes = any(name.startswith("config.") for name in names)
    values = [word.partition("=")[2] for word in argv if word.lstrip("-").startswith("workdir=")]
    mode = [word.partition("=")[2] for word in argv if word.lstrip("-").startswith("mode=")]
    mode = mode or argv[1:2]
    if not changes or "config" in names or not values or mode[-1] not in WITHOUT_CONFIG:
        return argv
    place = next(i for i, word in enumerate(argv) if word.startswith("-"))
    return [*argv[:place], f"--config={SAVED}:{values[-1]}", *argv[place:]]
