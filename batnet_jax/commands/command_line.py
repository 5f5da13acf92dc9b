"""The long form of the command line, parsed by absl: --config, --workdir, --mode, and more.

`table` has the flags; this module defines them for absl, and ml_collections adds --config.FIELD.
"""

import re
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from batnet_jax.commands.config_files import config_names
from batnet_jax.commands.table import COMMANDS, MODES, Command, Option, all_options
from batnet_jax.data.files.safe_open import check_local
from batnet_jax.errors import MAX_CHARACTERS, UserError, one_line
from batnet_jax.runtime.paths import is_file


class _PathParser(flags.ArgumentParser[Path]):
    """Parse a path. An empty argument counts as not given."""

    def parse(self, argument: str) -> Path | None:
        check_local(argument)
        return Path(argument) if argument else None


def _define(option: Option) -> flags.FlagHolder[Any]:
    """Define a flag of the table for absl."""
    name, default, text = option.name, option.default, option.help
    if option.choices:
        return flags.DEFINE_enum(name, default, list(option.choices), text)
    if option.kind == "path":
        return flags.DEFINE(_PathParser(), name, default, text)
    if option.kind == "switch":
        return flags.DEFINE_boolean(name, default, text)
    if option.kind == "number":
        return flags.DEFINE_integer(
            name, default, text, lower_bound=option.least, upper_bound=option.most
        )
    define: Any = flags.DEFINE_list if option.kind == "list" else flags.DEFINE_string
    return define(name, default, text)


CONFIG = config_flags.DEFINE_config_file("config", None, "The settings: a file of configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; default runs/<config name>.")
MODE = flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")
TRUST = flags.DEFINE_list("trust", [], "Packages whose code the checkpoint's settings may name.")
OPTIONS = {name: _define(option) for name, option in all_options().items()}


def parse(argv: list[str]) -> None:
    """Parse a command line, see `words.to_flags`, which must be sys.argv, too.

    Raises: UserError for a mistake in the flags or in the config file.
    """
    try:
        rest = flags.FLAGS(argv)
    except Exception as error:  # config_flags raises whatever the config file raises
        innermost: object = error
        while isinstance(innermost, Exception) and innermost.args:  # str(KeyError) is a repr
            innermost = innermost.args[0]
        text = innermost if isinstance(innermost, str) else str(error)
        message = one_line(text or error, MAX_CHARACTERS)
        raise UserError(f"{message} (see --help; batnet fields lists all settings)") from error
    if rest[1:]:
        raise UserError(
            f"unexpected argument {rest[1]!r}: flags look like --config=FILE, and a command comes "
            "first, as in batnet eval RUN"
        )
    check_flags()
    settings = command().settings
    if settings == "none":
        if flags.FLAGS["config"].present or flags.FLAGS["workdir"].present:
            raise UserError(f"--mode={MODE.value} reads no run: omit --config and --workdir")
        return
    if settings == "runs":
        if flags.FLAGS["config"].present:
            raise UserError(f"--mode={MODE.value} reads the settings of the runs: omit --config")
        return
    if CONFIG.value is None and settings == "saved" and WORKDIR.value:
        return
    if CONFIG.value is None and settings == "source":
        return
    if CONFIG.value is None:
        workdir = " or --workdir=DIR of a run" if settings == "saved" else ""
        raise UserError(f"no --config given: try --config=configs/demo.py{workdir}")
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    path = re.sub(r"\.py:.*", ".py", path)  # the file's argument follows a colon
    if not is_file(Path(path)):  # config_flags notices only when the config is used
        names = ", ".join(config_names())
        raise UserError(f"--config={path} does not exist: name a file, or one of {names}")


def command() -> Command:
    """Return the command of the parsed command line."""
    return COMMANDS[MODE.value]


def check_flags() -> None:
    """Refuse flags of other modes, and a mode that lacks a flag.

    Raises: UserError naming the flag.
    """
    own = command().options
    for name in all_options():
        if flags.FLAGS[name].present and name not in own:
            modes = [f"--mode={other}" for other in MODES if name in MODES[other].options]
            raise UserError(f"--{name} is for {' or '.join(modes)}, not --mode={MODE.value}")
    if flags.FLAGS["trust"].present and command().settings != "saved":
        raise UserError(f"--trust is for the settings of a checkpoint, not --mode={MODE.value}")
    for option in command().needs:
        if OPTIONS[option.name].value is None:
            raise UserError(f"--mode={MODE.value} needs --{option.name}: {option.help}")


def values() -> dict[str, Any]:
    """Return the values of the mode's flags by name, for the mode's `run`."""
    return {name: OPTIONS[name].value for name in command().options}
