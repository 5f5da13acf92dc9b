"""Imports the user's own code, which a setting names by an import path, as `mypkg.nets:MyBlock`.

Importing a module runs it. A setting that the user gives may name any module. The settings in a
checkpoint may come from a stranger: `validation.check_trusted` refuses their import paths unless
the user trusts them.
"""

import difflib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from batnet_jax.errors import UserError, one_line

VARIABLE = "BATNET_TRUST"
"""The environment variable with the packages that the user trusts, separated by commas."""
EXAMPLE = "mypkg.nets:MyNet"
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_import_path(name: Any) -> bool:
    """Return whether a name has the form of an import path, `module:name`."""
    return isinstance(name, str) and _PATH.fullmatch(name) is not None


def choose(choices: Mapping[str, Any], name: Any) -> Any:
    """Return the choice with a name, or the object that an import path names.

    Args:
      choices: the package's own, by name.
      name: a key of `choices`, or an import path. Any object but a string is returned as it is, so
        that a caller in Python can pass an object in place of its name.

    Raises: UserError if the name is neither, or cannot be imported, or cannot be called.
    """
    if not isinstance(name, str):
        return name
    if name in choices:
        return choices[name]
    if not is_import_path(name):
        raise UserError(
            f"{name!r} is not one of {', '.join(choices)}: choose one, or name your own, as in "
            f"{EXAMPLE}"
        )
    found = find(name)
    if not callable(found):
        kind = type(found).__name__
        raise UserError(f"{name!r} is of the type {kind}: name a function or a class")
    return found


def find(path: str) -> Any:
    """Import the module of an import path, and return the object that the path names.

    Args:
      path: see `is_import_path`.

    Raises: UserError if the module is not found or cannot be imported, or lacks the name.
    """
    module, _, names = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"{path!r}: {_explain(module, error)}") from error
    for name in names.split("."):
        try:
            found = getattr(found, name)
        except Exception as error:  # a module's own __getattr__ raises what it likes
            close = difflib.get_close_matches(name, dir(found), n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise UserError(
                f"{path!r}: {module} has no {name!r}{hint}: correct the name"
            ) from error
    return found


def check_call(path: str, found: Any, places: Sequence[str], names: Sequence[str]) -> None:
    """Check that a function or a class of the user's own takes the arguments that it will get.

    Args:
      path: the import path of `found`, for the message.
      found: the function or the class.
      places: names of the arguments that are given by their places.
      names: of the arguments that are given by their names.

    Raises: UserError if it does not.
    """
    try:
        inspect.signature(found).bind(*places, **dict.fromkeys(names))
    except TypeError as error:
        arguments = ", ".join([*places, *(f"{name}=..." for name in names)])
        raise UserError(
            f"{path!r} cannot be called with ({arguments}): {one_line(error)}"
        ) from error
    except ValueError:  # some functions in C do not tell
        pass


def _explain(module: str, error: BaseException) -> str:
    """Return the reason why a module cannot be imported, and the way out."""
    missing = getattr(error, "name", None) or ""
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{missing}."):
        return (
            f"there is no module {missing}: install its package, or add the folder above it to "
            "PYTHONPATH"
        )
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if "<" not in frame[0]]
    place = f", {os.path.basename(places[-1].filename)}:{places[-1].lineno}" if places else ""
    return f"{module} cannot be imported ({type(error).__name__}: {one_line(error)}{place}): fix it"


def search_current_folder() -> None:
    """Let Python find modules in the current folder, too, after all other places."""
    folder = os.getcwd()
    if not {"", folder} & set(sys.path):
        sys.path.append(folder)


def as_trusted(trust: str | Collection[str]) -> tuple[str, ...]:
    """Return the packages that the user trusts: those given, and those of `VARIABLE`.

    Args:
      trust: names of packages, modules or import paths; in a string they are separated by commas.

    Raises: UserError if a name is not the name of a package.
    """
    given = trust.split(",") if isinstance(trust, str) else trust
    if not isinstance(given, Collection) or not all(isinstance(name, str) for name in given):
        raise UserError(f"trust={trust!r} is not the name of a package: give one, as in 'mypkg'")
    names = [*given, *os.environ.get(VARIABLE, "").split(",")]
    return tuple(name.strip() for name in names if name.strip())


def is_trusted(path: str, trusted: Collection[str]) -> bool:
    """Return whether an import path lies in a package or a module that the user trusts."""
    module = path.partition(":")[0]
    return any(path == name or f"{module}.".startswith(f"{name}.") for name in trusted)
