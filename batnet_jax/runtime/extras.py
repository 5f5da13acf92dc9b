"""Packages of the extras, which are not installed with this package."""

import importlib
from types import ModuleType

from batnet_jax.errors import UserError


def import_extra(module: str, *, name: str, extra: str, user: str) -> ModuleType:
    """Return a module of an extra.

    Args:
      module: as in `import faiss`.
      name: of the package, for the message.
      extra: the extra that installs it.
      user: the argument that needs it, for the message.

    Raises: UserError if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{user} needs {name}, which is not installed: pip install 'batnet-jax[{extra}]'"
        ) from error
