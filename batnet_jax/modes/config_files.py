"""The files of configs/, wherever the package lies: in its source tree or installed."""

from pathlib import Path


def config_folder() -> Path:
    """The folder of the configs that come with the package."""
    package = Path(__file__).parents[1]
    installed = package / "configs"  # setup.py puts them there in a wheel
    return installed if installed.is_dir() else package.parent / "configs"


def config_names() -> list[str]:
    """What can be asked for by name alone."""
    return sorted(path.stem for path in config_folder().glob("*.py"))


def find_config(name: str) -> str:
    """The path of a config: a file as it is, else the shipped one of that name.

    Args:
      name: a path, as `mine.py`; or of a shipped one, as `demo` or `configs/demo.py`, which an
        installed package has wherever it is called.
    Returns: a path; `name` itself if there is no such config.
    """
    shipped = config_folder() / f"{Path(name).stem}.py"
    asked = name in (shipped.stem, f"configs/{shipped.name}")
    return str(shipped) if asked and not Path(name).is_file() and shipped.is_file() else name


def name_configs(argv: list[str]) -> list[str]:
    """`--config=demo` and `--config demo` with the path of the config that the package has."""
    named, before = [], ""
    for argument in argv:
        flag, equals, value = argument.partition("=")
        if before in ("-config", "--config"):
            argument = find_config(argument)
        elif equals and flag in ("-config", "--config"):
            argument = f"{flag}={find_config(value)}"
        named.append(argument)
        before = argument
    return named
