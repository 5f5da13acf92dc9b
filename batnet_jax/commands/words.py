"""Turns command lines such as `batnet search RUN QUERY` into the long form.

The long form is `--mode=search --workdir=RUN --query=QUERY`: flags only, each with its value
in the same word. Everything behind this module reads only this form.
"""

import csv
import difflib
import io
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from batnet_jax.commands.config_files import SAVED, config_names, find_config
from batnet_jax.commands.table import COMMANDS, DATA, MODES, RUN, RUNS, WORDS, Command, all_options
from batnet_jax.config import FIELDS
from batnet_jax.errors import UserError
from batnet_jax.runtime.paths import exists, is_folder

FLAG_OF = {RUN: "workdir", RUNS: "runs"}
"""The flag that an argument sets, if the argument has another name."""
ARCHIVE = re.compile(
    r"((\.tar)?\.(zip|tar|tgz|tbz2?|txz|gz|bz2|xz)|\.(csv|tsv|parquet))$", re.IGNORECASE
)
"""The end of the name of an archive, or of a table."""


def to_flags(argv: Sequence[str]) -> list[str]:
    """Return a command line in the long form.

    Args:
      argv: the program and its arguments, in either form.

    Raises: UserError for an unknown command, and for missing, superfluous or unclear arguments.
    """
    words = join_values([spell(word) for word in argv[1:]])
    first = words[0] if words else ""
    if first in MODES:
        words = [f"--mode={first}", *_set_flags(first, words[1:])]
    elif first and not first.startswith("-"):
        raise UserError(f"there is no command {first!r}{suggest(first)}: batnet --help lists all")
    end = words.index("--") if "--" in words else len(words)
    # The file comes first: config_flags refuses a field that precedes it.
    configs = [word for word in words[:end] if _is(word, "config")]
    others = [word for word in words[:end] if not _is(word, "config")]
    flags = [f"{name_of(word)}={find_config(value_of(word))}" for word in configs] + others
    return [argv[0], *map(quote_keyword, _name_saved_config(flags)), *words[end:]]


def spell(word: str) -> str:
    """Return a flag with `_` where the user wrote `-`, as in --keep-own; other words unchanged."""
    name, equals, value = word.partition("=")
    known = name.lstrip("-").replace("-", "_")
    dashes = name[: len(name) - len(name.lstrip("-"))]
    is_known = known in all_options() or known.removeprefix("no") in all_options()
    return f"{dashes}{known}{equals}{value}" if dashes and is_known else word


def join_values(words: Sequence[str]) -> list[str]:
    """Join each flag and its value into one word: `--top 5` becomes `--top=5`."""
    joined, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*joined, word, *rest]
        joined.append(f"{word}={rest.pop(0)}" if rest and _takes_next(word) else word)
    return joined


def _takes_next(word: str) -> bool:
    """Return whether a word is a flag whose value is the next word."""
    name = word.lstrip("-")
    if "=" in word or name == word:
        return False
    if name.startswith("config."):
        field = FIELDS.get(name.removeprefix("config."))
        return field is not None and not isinstance(field.default, bool)
    options = all_options()
    return name in ("config", "workdir", "mode", "trust") or (
        name in options and options[name].kind != "switch"
    )


def name_of(word: str) -> str:
    """Return a flag without its value."""
    return word.partition("=")[0]


def value_of(word: str) -> str:
    """Return the value of a flag."""
    return word.partition("=")[2]


def _is(word: str, flag: str) -> bool:
    """Return whether a word is `--flag=VALUE`, with one dash or two."""
    return word.startswith("-") and "=" in word and name_of(word).lstrip("-") == flag


def _set_flags(name: str, words: Sequence[str]) -> list[str]:
    """Return the flags of a command, with flags in place of its arguments.

    Raises: UserError, as `to_flags` does.
    """
    command, end = MODES[name], list(words).index("--") if "--" in words else len(words)
    flags = [word for word in words[:end] if word.startswith("-")]
    free = [word for word in words[:end] if not word.startswith("-")] + list(words[end + 1 :])
    given = {name_of(flag).lstrip("-") for flag in flags}
    if "mode" in given:
        raise UserError(f"--mode and the command {name} name two modes: leave one out")
    slots = [slot for slot in command.words if FLAG_OF.get(slot, slot) not in given]
    if slots == [RUNS]:
        flags += [f"--runs={_as_list(free)}"] if free else []
        free = []
    for slot in slots[: len(free)]:
        word = free.pop(0)
        if not word:
            raise UserError(f"batnet {name}: {shown(slot)} is empty: {WORDS.get(slot, 'give it')}")
        flags += read_data(word, given) if slot == DATA else [f"--{FLAG_OF.get(slot, slot)}={word}"]
    if free:
        raise UserError(f"unexpected argument {free[0]!r}: {usage(name)}")
    _check_needs(name, command, {name_of(flag).lstrip("-") for flag in flags})
    return flags


def _check_needs(name: str, command: Command, given: Collection[str]) -> None:
    """Refuse a command that lacks an argument.

    Raises: UserError naming the argument.
    """
    if command.settings == "saved" and not {"workdir", "config"} & set(given):
        raise UserError(f"batnet {name} needs {RUN}, {WORDS[RUN]}: {usage(name)}")
    for option in command.needs:
        if option.name not in given:
            raise UserError(f"batnet {name} needs --{option.name}, {option.help}: {usage(name)}")


def usage(name: str) -> str:
    """Return a command with its arguments, as in `batnet search RUN QUERY GALLERY`."""
    return " ".join(["batnet", name, *map(shown, COMMANDS[name].words)])


def shown(slot: str) -> str:
    """Return the name of an argument as messages and the help show it."""
    return "RUN RUN ..." if slot == RUNS else slot.upper()


def suggest(word: str) -> str:
    """Return the command that a misspelt word may mean, for a message; "" = none."""
    close = difflib.get_close_matches(word, COMMANDS, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _as_list(names: Sequence[str]) -> str:
    """Return names as the value of a flag that takes a list; names may contain commas."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(names)
    return text.getvalue()


def read_data(word: str, given: Collection[str]) -> list[str]:
    """Return the flags for the word DATA of `train`: the images, or the name of a config.

    Args:
      word: as the user gave it.
      given: names of the flags that the user gave.

    Raises: UserError if the word is neither or both, or if it repeats a flag.
    """
    path = Path(word)
    is_config = word.endswith(".py") or word in config_names()
    there = exists(path)
    if is_config and not (there and not word.endswith(".py")):
        if "config" in given:
            raise UserError(f"{word!r} names a config, and --config another: leave one out")
        return [f"--config={word}"]
    if is_config:
        raise UserError(
            f"{word!r} is a path here, and also the name of a config: write ./{word} for the "
            f"images, or --config={word}"
        )
    if "config.data.manual_dir" in given:
        raise UserError(f"{word!r} and --config.data.manual_dir both name images: leave one out")
    if not there:
        raise UserError(
            f"{word!r} does not exist: name {WORDS[DATA]} ({', '.join(config_names())})"
        )
    if is_folder(path / "checkpoints"):
        raise UserError(
            f"{word!r} is the workdir of a run: the command that began the run resumes it, and "
            f"batnet eval {word} evaluates it"
        )
    flags = [f"--config.data.manual_dir={word}"]
    if "config" in given:
        return flags
    name = os.path.basename(os.path.abspath(word))
    name = (name if is_folder(path) else ARCHIVE.sub("", name)) or "folder"
    workdir = [] if "workdir" in given else [f"--workdir={os.path.join('runs', name)}"]
    return ["--config=folder", *flags, *workdir]


def _name_saved_config(words: list[str]) -> list[str]:
    """Add the config of the named workdir or file to flags that change fields but name no config.

    Other command lines are returned as they are.
    """
    names = {name_of(word).lstrip("-") for word in words if word.startswith("-")}
    flags = ("mode", "workdir", "source")
    last = {name: value_of(word) for word in words for name in flags if _is(word, name)}
    mode = MODES.get(last.get("mode", ""))
    changes = any(name.startswith("config.") for name in names)
    if not changes or "config" in names or mode is None:
        return words
    place = last.get({"saved": "workdir", "source": "source"}.get(mode.settings, ""))
    return [f"--config={SAVED}:{place}", *words] if place else words


def quote_keyword(word: str) -> str:
    """Return `--config.init.from` in a form that config_flags can parse; `from` is a keyword."""
    name, equals, value = word.partition("=")
    if name.removeprefix("-").removeprefix("-") != "config.init.from":
        return word
    return f'--config.init["from"]{equals}{value}'
