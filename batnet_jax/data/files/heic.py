"""Reads HEIC, the photo format of many phones, with the optional package pillow-heif."""

import functools
from importlib.util import find_spec

SUFFIXES = (".heic", ".heif", ".hif")
INSTALL = "pip install 'batnet-jax[heic]'"


@functools.cache
def reads_heic() -> bool:
    """Return whether pillow-heif is installed."""
    return find_spec("pillow_heif") is not None


@functools.cache
def register() -> None:
    """Have Pillow open HEIC files, as the format HEIF."""
    import pillow_heif  # pyright: ignore[reportMissingImports]

    pillow_heif.register_heif_opener()
