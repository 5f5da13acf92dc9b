"""Features and paths of images on the disk: an .npz that is written by and by, and mapped.

`np.load` reads it as any other. As it is not compressed, and its features begin at a multiple of
64 bytes, a search can read them where they lie, however large the file is.
"""

import contextlib
import struct
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from batnet_jax.errors import UserError

SUFFIXES = (".npz", ".npy")
_ALIGNMENT = 64
_EXTRA = 0xD935  # of a zip's field that fills up to an alignment, as Android's tools have it


class Gallery(NamedTuple):
    """Features that were written earlier."""

    features: np.ndarray
    """[n, d] of floats; mapped where the file allows it."""
    paths: list[str] | None
    """Of the n images; None where the file has none."""


@contextlib.contextmanager
def replacing(path: Path, flag: str) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end; nothing is left of a failure.

    Args:
      path: the wanted file.
      flag: that named it, for the message.

    Raises: UserError if it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise UserError(f"--{flag}={path} is a folder: name a file")
        yield partial
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write --{flag}={path} ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_features(
    path: Path, parts: Iterable[np.ndarray], *, shape: tuple[int, int], paths: list[str]
) -> None:
    """Writes the arrays `features` [n, d] float32 and `paths` [n].

    Args:
      path: the file; it is there when all is written.
      parts: [b, d] float32, in order; n rows in all. Taken one by one.
      shape: n and d.
      paths: n names.

    Raises: UserError if it cannot be written.
    """
    with (
        replacing(path, "output") as partial,
        partial.open("wb") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        with _member(archive, file, "features.npy") as out:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, header)
            for part in parts:
                out.write(np.ascontiguousarray(part, "<f4").data)
        with _member(archive, file, "paths.npy") as out:
            np.lib.format.write_array(out, np.array(paths, np.str_), allow_pickle=False)


def _member(archive: zipfile.ZipFile, file: BinaryIO, name: str) -> Any:
    """A member whose data will begin at a multiple of `_ALIGNMENT`."""
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o644 << 16
    zip64 = 20  # what ZipFile puts before our field, as the size is not known
    start = file.tell() + 30 + len(name) + zip64 + 4
    info.extra = struct.pack("<HH", _EXTRA, -start % _ALIGNMENT) + bytes(-start % _ALIGNMENT)
    return archive.open(info, "w", force_zip64=True)


def is_named(path: Path) -> bool:
    """Whether a path is that of features, by its name, rather than of images."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def open_features(path: Path) -> Gallery:
    """Opens an .npz with `features` and, if it has them, `paths`; or an .npy of features.

    Features are mapped, so a file may be larger than memory; those of a compressed .npz are read.

    Raises: UserError if it cannot be read or holds something else.
    """
    try:
        if path.suffix.lower() == ".npy":
            features, paths = np.load(path, mmap_mode="r", allow_pickle=False), None
        else:
            with np.load(path, allow_pickle=False) as arrays:
                if "features" not in arrays:
                    held = ", ".join(arrays.files) or "nothing"
                    raise UserError(f"'{path}' holds {held}, not `features`: give what embed wrote")
                paths = arrays["paths"].tolist() if "paths" in arrays else None
                features = _map(path, "features.npy")
                features = arrays["features"] if features is None else features
    except UserError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise UserError(
            f"'{path}' cannot be read ({reason}): give an .npz that embed wrote, or an .npy"
        ) from error
    if features.ndim != 2 or features.dtype.kind != "f":
        raise UserError(
            f"'{path}' holds features of shape {features.shape}, {features.dtype}: must be floats"
            " [images, dimensions]"
        )
    if paths is not None and len(paths) != len(features):
        raise UserError(
            f"'{path}' holds {len(features)} features and {len(paths)} paths: write it again"
        )
    return Gallery(features, paths)


def _map(path: Path, name: str) -> np.ndarray | None:
    """An array of an .npz where it lies in the file, None if it is compressed."""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        file.seek(info.header_offset)
        header = file.read(30)
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        file.seek(info.header_offset + 30 + name_length + extra_length)
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            return None
        shape, fortran, dtype = read(file)
        if fortran or dtype.hasobject or 0 in shape:
            return None
        return np.memmap(path, dtype, "r", file.tell(), shape)
