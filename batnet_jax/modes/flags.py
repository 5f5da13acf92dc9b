"""The command line as modes see it: the fields that were given, and errors of written files."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from batnet_jax.errors import UserError
from batnet_jax.runtime.paths import is_folder
from batnet_jax.runtime.resource_errors import disk_error


def given_fields() -> set[str]:
    """Return the dotted names of the config's fields that the command line gives."""
    return {name.removeprefix("config.") for name in flags.FLAGS if name.startswith("config.")}


def check_json(flag: str, path: Path | None) -> None:
    """Raise UserError for a file of another suffix, into which JSON would be written.

    Args:
      flag: the flag that named the path.
      path: the file; None = not given. A folder is left to `report_write_errors`.
    """
    if path is not None and path.suffix.lower() != ".json" and not is_folder(path):
        raise UserError(f"--{flag}={path} would hold JSON: name a .json")


@contextlib.contextmanager
def report_write_errors(flag: str, path: Path, *, folder: bool = False) -> Iterator[None]:
    """Report a failure to write the file or the folder of a flag.

    Args:
      flag: the flag that named the path.
      path: the file, or the folder, that the body of the `with` statement writes.
      folder: the path may be a folder.

    Raises: UserError if the path is a folder and may not be one, or the body raises OSError or
      TensorStore's ValueError for an error of the disk.
    """
    if is_folder(path) and not folder:
        raise UserError(f"--{flag}={path} is a folder: name a file")
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write --{flag}={path} ({error.strerror or error})") from error
    except ValueError as error:
        reason = disk_error(error)
        if reason is None:
            raise
        raise UserError(f"cannot write --{flag}={path} ({reason})") from error
