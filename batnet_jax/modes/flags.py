"""Flags that hold a path, and the flags that several modes share."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from batnet_jax.data.files.safe_open import check_local
from batnet_jax.errors import UserError
from batnet_jax.runtime.paths import is_folder
from batnet_jax.runtime.resource_errors import disk_error


class _PathParser(flags.ArgumentParser[Path]):
    """Parse a path. An empty argument counts as not given."""

    def parse(self, argument: str) -> Path | None:
        check_local(argument)
        return Path(argument) if argument else None


def define_path(name: str, description: str) -> flags.FlagHolder[Path | None]:
    """Define a flag whose value is a path, or None if the flag is not given."""
    return flags.DEFINE(_PathParser(), name, None, description)


OUTPUT = define_path("output", "the file to write; for import, the workdir to make")
QUERY = define_path("query", "an image, a folder or a list; for metrics, a file of features")
GALLERY = define_path("gallery", "what embed wrote, a folder or a list")


def given_fields() -> set[str]:
    """Return the dotted names of the config's fields that the command line gives."""
    return {name.removeprefix("config.") for name in flags.FLAGS if name.startswith("config.")}


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
