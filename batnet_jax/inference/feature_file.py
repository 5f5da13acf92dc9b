"""Feature files: the features of images and their paths in an .npz, written incrementally.

`np.load` reads a feature file like any other .npz. The file is not compressed and its features
begin at a multiple of 64 bytes, so a search can memory-map features larger than memory.

The fingerprint of the model that embedded the images is the comment of the .npz (a zip archive). In
an index for faiss the fingerprint follows the end of the index, where faiss does not read.
"""

import struct
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from batnet_jax.errors import UserError, one_line, printable
from batnet_jax.runtime.atomic_write import atomic_path
from batnet_jax.runtime.paths import is_folder

INDEX_SUFFIX = ".index"
SUFFIXES = (".npz", ".npy", INDEX_SUFFIX)
_ALIGNMENT = 64
_MARK = b"batnet_jax fingerprint "
_MARKED_BYTES = len(_MARK) + 32
_PADDING_ID = 0xD935  # zip extra field for alignment padding; Android's zipalign uses the same id


class FeatureFile(NamedTuple):
    """The contents of a feature file."""

    features: np.ndarray
    """[n, d] of floats; memory-mapped if the file allows it."""
    paths: Sequence[str] | None
    """The n image paths; None if the file has none."""
    fingerprint: str | None = None
    """The fingerprint of the model that embedded the images; None if the file has none."""


def is_feature_file(path: Path) -> bool:
    """Return whether a path is a feature file, judged by its suffix."""
    return path.suffix.lower() in SUFFIXES and not is_folder(path)


def open_features(path: Path) -> FeatureFile:
    """Open an .npz with `features` and optionally `paths`, an .npy of features, or an index.

    Features are memory-mapped, so a file may be larger than memory. A compressed .npz is read. An
    .index of faiss is read as a whole and has no paths.

    Raises: UserError if the file cannot be read or has other contents.
    """
    try:
        if path.suffix.lower() == ".npy":
            features, paths = np.load(path, mmap_mode="r", allow_pickle=False), None
        elif path.suffix.lower() == INDEX_SUFFIX:
            features, paths = _read_index(path), None
        else:
            features, paths = _open_npz(path)
    except UserError:
        raise
    except Exception as error:  # damaged files raise many types
        reason = one_line(getattr(error, "strerror", None) or error)
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
    return FeatureFile(features, paths, read_fingerprint(path))


def read_fingerprint(path: Path) -> str | None:
    """Return the fingerprint of the model that embedded a file's images; None if there is none.

    Args:
      path: an .npz, or an index for faiss; other files have none.

    Raises: UserError if the file cannot be read.
    """
    try:
        with path.open("rb") as file:  # a zip's comment is its end, too
            length = file.seek(0, 2)
            file.seek(max(0, length - _MARKED_BYTES))
            end = file.read()
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror or error})") from error
    found = end.removeprefix(_MARK).decode("ascii", "replace")
    return found if end.startswith(_MARK) and found.isalnum() else None


def mark(fingerprint: str | None) -> bytes:
    """Return the bytes that end a file with this fingerprint; empty if there is none."""
    return _MARK + fingerprint.encode() if fingerprint else b""


def check_fingerprint(path: Path, found: str | None, wanted: str) -> None:
    """Check that a gallery was embedded by the model in use; warn on stderr if it does not say.

    Args:
      path: of the gallery.
      found: the gallery's fingerprint; None if the file has none.
      wanted: the model's.

    Raises: UserError for the fingerprint of another model.
    """
    if found is None:
        line = (
            f"warning: '{path}' does not say which model embedded it; if it was another model, the"
            " results mean nothing: embed the images again to be sure"
        )
        print(printable(line), file=sys.stderr)
    elif found != wanted:
        raise UserError(
            f"'{path}' was embedded by another model ({found[:8]}, this one is {wanted[:8]}: other"
            " weights, image size or preprocessing): embed the images with this model"
        )


def _read_index(path: Path) -> np.ndarray:
    """Return the vectors of an index for faiss.

    Raises: UserError if faiss is not installed or the file is not an index of vectors.
    """
    faiss = import_faiss(f"'{path}'")
    try:
        index = faiss.read_index(str(path))
        return index.reconstruct_n(0, index.ntotal)
    except RuntimeError as error:  # SWIG's, of faiss's own exceptions
        raise UserError(
            f"'{path}' cannot be read as an index of vectors: write it with --mode=search --faiss"
        ) from error


def import_faiss(user: str) -> Any:
    """Return the module `faiss`.

    Args:
      user: the argument that needs it, for the message.

    Raises: UserError if faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            f"{user} needs faiss, which is not installed: pip install 'batnet-jax[faiss]'"
        ) from error
    return faiss


def _open_npz(path: Path) -> tuple[np.ndarray, list[str] | None]:
    """Return the features, mapped if possible, and the paths of an .npz."""
    # NumPy leaves a damaged archive open, if it opens it itself.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        if "features" not in arrays:
            names = ", ".join(arrays.files) or "nothing"
            raise UserError(f"'{path}' holds {names}, not `features`: give what embed wrote")
        paths = arrays["paths"].tolist() if "paths" in arrays else None
        features = _map_member(path, "features.npy")
        return arrays["features"] if features is None else features, paths


def _map_member(path: Path, name: str) -> np.ndarray | None:
    """Memory-map an array of an .npz; return None for a compressed or Fortran-ordered one."""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        file.seek(info.header_offset)
        header = file.read(30)
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        file.seek(info.header_offset + 30 + name_length + extra_length)
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            return None
        shape, fortran_order, dtype = read_header(file)
        if fortran_order or dtype.hasobject or 0 in shape:
            return None
        return np.memmap(path, dtype, "r", file.tell(), shape)


def write_features(
    path: Path,
    batches: Iterable[np.ndarray],
    *,
    shape: tuple[int, int],
    paths: Sequence[str],
    fingerprint: str | None = None,
) -> None:
    """Write the arrays `features` [n, d] float32 and `paths` [n], and the model's fingerprint.

    Args:
      path: the file; appears when complete.
      batches: [b, d] float32, in order; n rows in total. Consumed one at a time.
      shape: n and d.
      paths: n names.
      fingerprint: of the model; None to leave it out.

    Raises: OSError if the file cannot be written; then an old file at the path is unchanged.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        archive.comment = mark(fingerprint)
        with _open_member(archive, file, "features.npy") as out:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, header)
            for features in batches:
                out.write(np.ascontiguousarray(features, "<f4").data)
        with _open_member(archive, file, "paths.npy") as out:
            np.lib.format.write_array(out, np.array(paths, np.str_), allow_pickle=False)


def _open_member(archive: zipfile.ZipFile, file: BinaryIO, name: str) -> Any:
    """Open a zip member for writing; its data begins at a multiple of `_ALIGNMENT`."""
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o644 << 16
    zip64 = 20  # bytes of the extra field that ZipFile puts before ours for an unknown size
    start = file.tell() + 30 + len(name) + zip64 + 4
    info.extra = struct.pack("<HH", _PADDING_ID, -start % _ALIGNMENT) + bytes(-start % _ALIGNMENT)
    return archive.open(info, "w", force_zip64=True)
