"""Parsers of every command, from the table: for their help, and for completion in a shell.

They read no command line of a mode: `words` and absl do, so that both forms mean the same.
"""

import argparse
import os
from typing import Any, NoReturn

from batnet_jax.commands.config_files import config_names
from batnet_jax.commands.known_weights import FILES
from batnet_jax.commands.table import COMMANDS, DATA, MODES, RUN, RUNS, WORDS, Command, Option
from batnet_jax.commands.words import shown
from batnet_jax.config import FIELDS, Field
from batnet_jax.errors import UserError

SHELLS = ("bash", "zsh")
LONG_FORM = f"""\
the same in the long form, which needs no installed script:
  python -m batnet_jax.main --config=configs/demo.py [--workdir=DIR] [--mode=MODE]
                            [--config.FIELD=VALUE ...]
  MODE is train, the default, or another of the first {len(MODES)} commands.

batnet COMMAND --help shows the arguments and flags of a command.
"""
SHELL = 'the shell that runs the script, as in: eval "$(batnet completion bash)"'
WITH_CONFIG = {
    "config": "the settings to start from; batnet configs lists them",
    "saved": "settings to use in place of those that the run saved",
    "source": "settings to use in place of those that the file shows",
}
"""The help of --config, by where the settings of a command come from."""
PLACEHOLDER = "--config.FIELD"
PATTERN = "part of a name or of a meaning; or a name with *, such as 'eval.*'"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a user's mistakes."""

    def error(self, message: str) -> NoReturn:
        """Raise a UserError."""
        raise UserError(f"{message}: see {self.prog} --help")


def make_parser(*, with_fields: bool = False) -> argparse.ArgumentParser:
    """Return the parser of all commands.

    Args:
      with_fields: add the flag of each setting, hidden from the help.
    """
    parser = Parser(
        prog="batnet",
        usage="batnet COMMAND [ARGUMENT ...] [--FLAG=VALUE ...] [--config.FIELD=VALUE ...]",
        description="Person retrieval: train on images of people, search a gallery for a person.",
        epilog=LONG_FORM,
        formatter_class=_formatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", prog="batnet"
    )
    for name, row in COMMANDS.items():
        own = commands.add_parser(
            name,
            help=row.help,
            usage=usage(name, row) if row.module else None,
            description=row.help,
            epilog="\n  ".join(["examples:", *row.examples]) if row.examples else None,
            formatter_class=_formatter,
            allow_abbrev=False,
        )
        if row.module:
            add_arguments(own, row, with_fields=with_fields)
        else:
            add_own(own, name)
    return parser


def parsers_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command by its name."""
    actions = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return next(iter(actions)).choices


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=28)


def usage(name: str, row: Command) -> str:
    """Return the first line of a command's help."""
    needed = {RUN, RUNS} | {option.name for option in row.needs}
    words = [shown(word) if word in needed else f"[{shown(word)}]" for word in row.words]
    ending = ["[--FLAG=VALUE ...]"] if row.options else []
    ending += ["[--config.FIELD=VALUE ...]"] if row.settings in WITH_CONFIG else []
    return " ".join(["batnet", name, *words, *ending])


def add_arguments(parser: argparse.ArgumentParser, row: Command, *, with_fields: bool) -> None:
    """Add the arguments and the flags of a mode to its parser."""
    if row.words:
        words = parser.add_argument_group("arguments")
        for word in row.words:
            _complete(words.add_argument(**_word(row, word)), row, word)
    flags = parser.add_argument_group("flags")
    for option in row.options.values():
        is_word = option.name in row.words or (option.name == "runs" and RUNS in row.words)
        added = flags.add_argument(f"--{option.name}", **_flag(option, is_word=is_word))
        _complete(added, row, option.name)
    settings = parser.add_argument_group("settings")
    if row.settings not in ("none", "source"):
        settings.add_argument("--workdir", metavar="DIR", help=_workdir(row))
    if row.settings in WITH_CONFIG:
        config = settings.add_argument(
            "--config", metavar="NAME|FILE", help=WITH_CONFIG[row.settings]
        )
        config.completer = _names_and_files  # type: ignore[attr-defined]
        if with_fields:
            for name, field in FIELDS.items():
                parser.add_argument(f"--config.{name}", **_field(name, field))
        settings.add_argument(
            PLACEHOLDER, metavar="VALUE", help="change a setting; batnet fields lists them"
        )
    if row.settings == "saved":
        trust = settings.add_argument(
            "--trust", metavar="PKG,...", help="your own packages that the run may import"
        )
        trust.completer = lambda **_: []  # type: ignore[attr-defined]


def _word(row: Command, word: str) -> dict[str, Any]:
    option = row.options.get(word)
    text = WORDS[word] if option is None else f"{option.help}; or --{word}"
    nargs = "*" if word == RUNS else "?"
    return {"dest": word, "metavar": shown(word), "help": text.replace("%", "%%"), "nargs": nargs}


def _flag(option: Option, *, is_word: bool) -> dict[str, Any]:
    default = "" if option.default in (None, False) else f" (default {option.default})"
    text = argparse.SUPPRESS if is_word else f"{option.help}{default}".replace("%", "%%")
    if option.kind == "switch":
        return {"action": "store_true", "help": text}
    choices = option.choices or None
    return {"metavar": option.value_shown, "help": text, "choices": choices}


def _field(name: str, field: Field) -> dict[str, Any]:
    choices = ("True", "False") if isinstance(field.default, bool) else field.choices
    return {"dest": f"config.{name}", "choices": choices, "help": argparse.SUPPRESS}


def _complete(action: Any, row: Command, word: str) -> None:
    """Set the completer of an argument that is not a file."""
    if word == RUN:
        return
    if word == RUNS:
        action.completer = _folders
    elif word == DATA:
        action.completer = _names_and_files
    elif word in row.options and row.options[word].kind != "path" and not action.choices:
        action.completer = lambda **_: []


def _folders(prefix: str, **_: Any) -> list[str]:
    from argcomplete.completers import DirectoriesCompleter  # type: ignore

    return list(DirectoriesCompleter()(prefix))


def _names_and_files(prefix: str, **_: Any) -> list[str]:
    from argcomplete.completers import FilesCompleter  # type: ignore

    names = [name for name in config_names() if name.startswith(prefix)]
    return [*names, *FilesCompleter()(prefix)]


def _workdir(row: Command) -> str:
    if row.settings == "saved":
        return "the same as RUN"
    default = "runs" if row.settings == "runs" else "runs/NAME, after the config or the images"
    return f"the folder to write to; default {default}"


def add_own(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the arguments and flags of a command that is not a mode."""
    if name == "completion":
        parser.add_argument("shell", choices=SHELLS, help=SHELL)
    if name == "fields":
        pattern = parser.add_argument("pattern", nargs="?", default="", help=PATTERN)
        pattern.completer = lambda **_: list(FIELDS)  # type: ignore[attr-defined]
        config = parser.add_argument(
            "--config", metavar="NAME|FILE", help="show the values of this config, not the defaults"
        )
        config.completer = _names_and_files  # type: ignore[attr-defined]
    if name == "weights":
        parser.add_argument("get", nargs="?", choices=("get",), help="fetch the file NAME")
        known = parser.add_argument("name", nargs="?", help="a name from the printed list")
        known.completer = lambda **_: [own.name for own in FILES]  # type: ignore[attr-defined]
        parser.add_argument("--to", metavar="DIR", help="where to put the file; default here")


def complete() -> None:
    """Answer the shell that asks for completions, and end the process."""
    import argcomplete  # type: ignore

    about_fields = "--config." in os.environ.get("COMP_LINE", "")
    argcomplete.autocomplete(
        make_parser(with_fields=about_fields),
        always_complete_options=False,
        exclude=[PLACEHOLDER],
        print_suppressed=about_fields,
    )


def completion_script(shell: str) -> str:
    """Return the script that makes a shell complete the arguments of `batnet`."""
    import argcomplete  # type: ignore

    return argcomplete.shellcode(["batnet"], shell=shell)  # type: ignore
