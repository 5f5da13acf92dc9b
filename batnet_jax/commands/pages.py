"""Commands that need neither a run nor JAX: help, version, completion, lists, files of weights."""

import os
from collections.abc import Sequence

from batnet_jax.commands import listings, weights
from batnet_jax.commands.table import COMMANDS
from batnet_jax.commands.words import name_of, value_of
from batnet_jax.errors import UserError
from batnet_jax.version import VERSION

HELP = ("-h", "-help", "--help")
COMPLETING = "_ARGCOMPLETE"
"""The variable by which a shell asks for completions; argcomplete's script sets it."""


def show(argv: Sequence[str]) -> bool:
    """Print help, the version or a list, or complete an argument, if the command line asks for it.

    Args:
      argv: the program and its arguments.
    Returns: False if the command line asks for a run.

    Raises:
      UserError: for a mistake in the arguments.
      RunFailure: if a file of weights cannot be fetched.
    """
    words = list(argv[1 : argv.index("--")] if "--" in argv else argv[1:])
    if COMPLETING in os.environ:
        from batnet_jax.commands.parsers import complete

        complete()
    if set(HELP) & set(words):
        print(help_page(words))
    elif "--version" in words:
        print(f"batnet-jax {VERSION}")
    elif words and words[0] in COMMANDS and not COMMANDS[words[0]].module:
        print(answer(words))
    else:
        return False
    return True


def help_page(words: Sequence[str]) -> str:
    """Return the help of the command or mode in a command line, or of all commands.

    Args:
      words: the arguments of the program.
    """
    from batnet_jax.commands.parsers import make_parser, parsers_of

    parser = make_parser()
    modes = [value_of(word) for word in words if name_of(word) in ("--mode", "-mode")]
    known = parsers_of(parser)
    chosen = next((known[name] for name in [*words[:1], *modes] if name in known), parser)
    return chosen.format_help().rstrip()


def answer(words: Sequence[str]) -> str:
    """Return the output of a command that is not a mode.

    Args:
      words: the arguments of the program.

    Raises:
      UserError: for a mistake in the arguments.
      RunFailure: if a file of weights cannot be fetched.
    """
    from batnet_jax.commands.parsers import completion_script, make_parser

    given = make_parser().parse_args(list(words))
    if given.command == "configs":
        return listings.list_configs()
    if given.command == "fields":
        return listings.list_fields(given.pattern, given.config)
    if given.command == "weights":
        if given.get:
            return weights.get(given.name, given.to or ".")
        if given.to is not None:
            raise UserError("--to is for batnet weights get NAME")
        return weights.list_weights()
    return completion_script(given.shell)
