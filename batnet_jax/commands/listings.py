"""The lists of configs and of settings, for the terminal."""

import ast
import difflib
import fnmatch
import importlib.util
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batnet_jax.commands.config_files import config_folder, config_names, find_config
from batnet_jax.config import FIELDS, Field, flatten
from batnet_jax.errors import UserError, one_line
from batnet_jax.runtime.own_code import EXAMPLE
from batnet_jax.runtime.paths import is_file

WIDTH = 100


def list_configs() -> str:
    """Return the name and the purpose of each config that comes with the package."""
    names = config_names()
    width = max(map(len, names))
    lines = [f"{name:{width}}  {_describe(config_folder() / f'{name}.py')}" for name in names]
    return "\n".join([*lines, f"in {config_folder()}; --config=FILE takes one of your own"])


def _describe(path: Path) -> str:
    """Return the first line of a config's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def list_fields(pattern: str = "", config: str | None = None) -> str:
    """Return the settings with their values, their meanings and the source of the default.

    Args:
      pattern: see `match`.
      config: the config whose values are shown, a name or a file; None = the defaults.

    Raises: UserError if nothing matches, or the config cannot be read.
    """
    values = {name: field.default for name, field in FIELDS.items()}
    values |= {} if config is None else read_config(config)
    found = match(pattern)
    if not found:
        close = difflib.get_close_matches(pattern, FIELDS, n=3, cutoff=0.5)
        hint = f": did you mean {' or '.join(close)}?" if close else ": batnet fields lists all"
        raise UserError(f"no setting has {pattern!r} in its name or meaning{hint}")
    return "\n".join(_lines(name, values[name], FIELDS[name]) for name in found)


def match(pattern: str) -> list[str]:
    """Return the names of the settings that a pattern matches, in the order of `FIELDS`.

    Args:
      pattern: a part of a name or of a meaning, in any case; or a whole name with *, ? or [...]. A
        leading "config." is ignored.
    """
    wanted = pattern.removeprefix("--").removeprefix("config.").lower()
    if any(character in wanted for character in "*?["):
        return [name for name in FIELDS if fnmatch.fnmatchcase(name, wanted)]
    by_name = [name for name in FIELDS if wanted in name]
    return by_name or [name for name, own in FIELDS.items() if wanted in own.comment.lower()]


def _lines(name: str, value: Any, field: Field) -> str:
    """Return a setting in its lines: as a flag with its value, then its meaning and its limits."""
    limits = describe_limits(field)
    text = field.comment + (f"; {limits}" if limits else "")
    default = "" if value == field.default else f" [default {as_text(field.default)}]"
    meaning = textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"--config.{name}={as_text(value)}{default}\n{meaning}"


def as_text(value: Any) -> str:
    """Return a value as the command line takes it."""
    if isinstance(value, tuple):
        inner = ",".join(map(repr, value))
        return f"({inner}{',' if len(value) == 1 else ''})".replace(" ", "")
    return str(value)


def describe_limits(field: Field) -> str:
    """Return the allowed values of a field; "" = any of its type."""
    if field.choices is not None:
        return f"one of {', '.join(field.choices)}" + (
            f", or your own, as {EXAMPLE}" if field.own else ""
        )
    if isinstance(field.default, bool):
        return "True or False"
    limits = [f"{number:g} or more" for number in (field.least,) if number is not None] + [
        f"above {number:g}" for number in (field.above,) if number is not None
    ]
    if limits and field.below is not None:
        limits.append(f"below {field.below:g}")
    elif limits and math.isfinite(field.most) and field.most < 2**31 - 1:
        limits.append(f"at most {field.most:g}")
    return " and ".join(limits)


def read_config(name: str) -> Mapping[str, Any]:
    """Return the values of a config file by their dotted names.

    Raises: UserError if the file cannot be run.
    """
    path = find_config(name)
    if not is_file(Path(path)):
        raise UserError(f"--config={name} is neither a file nor one of {', '.join(config_names())}")
    try:
        spec = importlib.util.spec_from_file_location("config_file", path)
        assert spec is not None and spec.loader is not None  # noqa: PT018
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return flatten(module.get_config())
    except Exception as error:  # a config file raises what it likes
        raise UserError(f"--config={name} cannot be read ({one_line(error)})") from error
