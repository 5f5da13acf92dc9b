"""Prepared data sets: written once, under a lock, then opened for random access."""

import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from batnet_jax.data.builder import NO_READING, Reading, ReIDBuilder
from batnet_jax.data.checks import digest_of
from batnet_jax.data.dataset import Dataset, Split
from batnet_jax.data.label_index import INDEX_NAME, NAMES, read_index
from batnet_jax.errors import ArgumentError, UserError, one_line
from batnet_jax.runtime.atomic_write import open_lock
from batnet_jax.runtime.paths import exists, is_folder
from batnet_jax.runtime.quiet import hushed_absl
from batnet_jax.runtime.resource_errors import is_out_of_reach

LOOKED_AT = 200
"""Images of a split that `look` reads."""
LABELS, IMAGES = ("pid", "camera"), ("filename", "digest")
"""Arrays of the index, for each split."""
OPTIONAL = ("val", "multi_query", "distractors")
"""Splits that are missing in most data sets, or need optional files of the user."""


class _ImageFiles(Sequence[bytes]):
    """The image files in the records of a prepared split, compared with their digests, if any."""

    def __init__(self, records: Sequence[bytes], path: Path, digests: np.ndarray | None):
        self._records = records
        self._path = path
        self._digests = digests

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: Any) -> Any:
        try:
            image = _field(self._records[row], "image")
            if self._digests is not None and digest_of(image) != self._digests[row]:
                raise ValueError(f"image {row} does not match its checksum")
            return image
        except MemoryError:
            raise
        except Exception as error:  # ArrayRecord and protobuf raise many types
            raise OSError(f"{error} in '{self._path}'") from error


def open_prepared(builder: ReIDBuilder, name: str) -> Dataset:
    """Open a data set; prepare it first if necessary.

    Args:
      builder: see `make_builder`.
      name: the name of the result.

    Raises: UserError if the user's files are missing or wrong, or if the prepared files are
      damaged. A failed preparation leaves no files.
    """
    if not is_prepared(builder):
        _prepare(builder)
    path = Path(builder.data_dir)
    try:
        if not builder.info.splits:  # another process prepared it after the builder was made
            builder.info.read_from_directory(builder.data_dir)
        index = read_index(path / INDEX_NAME)
        found = [split for split in OPTIONAL if f"{split}/pid" in index]
        splits: dict[str, Any] = {
            split: _open_split(builder, index, split)
            for split in ("train", "query", "gallery", *found)
        }
        names = [name.decode() for name in index[NAMES].tolist()]
        return Dataset(name, path, identity_names=names, **splits)
    except Exception as error:
        if is_out_of_reach(error):
            raise UserError(
                f"'{builder.data_dir}' cannot be read ({one_line(error)}): let this user read it"
            ) from error
        raise UserError(
            f"'{builder.data_dir}' is damaged ({one_line(error)}): delete it, and run again"
        ) from error


def look(builder: ReIDBuilder, name: str) -> Dataset:
    """Open a data set without writing anything: a prepared one, or else the labels alone.

    The images of a data set that is not prepared cannot be read, and its `shapes` are the shapes of
    the first `LOOKED_AT` images of a split.

    Args:
      builder: see `make_builder`.
      name: the name of the result.

    Raises: UserError, as `open_prepared` does.
    """
    if is_prepared(builder):
        return open_prepared(builder, name)
    index = builder.look(LOOKED_AT)
    found = [split for split in OPTIONAL if f"{split}/pid" in index]
    splits: dict[str, Any] = {}
    for split in ("train", "query", "gallery", *found):
        filenames = [name.decode() for name in index[f"{split}/filename"].tolist()]
        labels = index[f"{split}/pid"], index[f"{split}/camera"]
        rows = np.arange(len(filenames))
        shapes = index[f"{split}/shape"]
        shapes = np.resize(shapes, (len(filenames), 2)) if len(shapes) else None
        splits[split] = Split(*labels, filenames, rows, (), "", shapes=shapes)
    names = builder.identity_names()
    return Dataset(name, Path(builder.data_dir), identity_names=names, **splits)


def make_builder(
    cls: type[ReIDBuilder],
    variant: str,
    data_dir: Path,
    manual_dir: Path,
    reading: Reading = NO_READING,
) -> ReIDBuilder:
    """Return a builder that reads `manual_dir` and writes below `data_dir`.

    Raises: UserError if the variant is unknown or, for `folder`, if the user's folder is missing.
    """
    exists(data_dir)  # says what is wrong with a path that cannot be looked up
    if not variant and cls.DETECTS_VARIANT:  # the only prepared variant, if there is only one
        places = data_dir.glob(f"{cls.name}/*/{cls.VERSION}/{INDEX_NAME}")
        prepared = [place.parents[1].name for place in places]
        variant = prepared[0] if len(prepared) == 1 else ""
    config = cls.choose_config(variant, str(manual_dir), reading)
    try:
        with hushed_absl():  # a warning about custom configs
            builder = cls(data_dir=data_dir, config=config, file_format="array_record")
    except Exception as error:  # TFDS reads the files of an earlier preparation
        raise UserError(
            f"'{data_dir / cls.name}' holds a damaged prepared data set: delete it, and run again"
        ) from error
    builder.manual_path = manual_dir
    builder.reading = reading
    builder.final_path = Path(builder.data_dir)
    return builder


def is_prepared(builder: ReIDBuilder) -> bool:
    """Return whether the data set has been prepared completely."""
    return exists(Path(builder.data_dir) / INDEX_NAME)


def _prepare(builder: ReIDBuilder) -> None:
    """Prepare the data set, or wait for another process that is preparing it.

    TFDS writes into a folder of another name and renames it at the end, so a killed run leaves no
    folder that looks complete. Under the lock, a leftover folder belongs to no process and is
    deleted.
    """
    final = Path(builder.data_dir)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = open_lock(final.parent / ".lock")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise ArgumentError(
            "data_dir", f"cannot write to '{final.parent}' ({error.strerror}): name another folder"
        ) from error
    with lock:
        if is_prepared(builder):
            return
        if exists(final):
            raise UserError(f"'{final}' is not a whole prepared data set: delete it, and run again")
        for leftover in final.parent.glob(f"incomplete.*_{final.name}"):
            if is_folder(leftover) and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        try:
            with tempfile.TemporaryDirectory() as scratch:  # TFDS wants one, and leaves it empty
                builder.download_and_prepare(download_dir=scratch, file_format="array_record")
        except OSError as error:  # a read error has already become a UserError
            raise ArgumentError(
                "data_dir",
                f"cannot write to '{final.parent}' ({error.strerror}): make room, or name another "
                "folder",
            ) from error


def _open_split(builder: ReIDBuilder, index: Mapping[str, np.ndarray], split: str) -> Split:
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    records = builder.as_data_source(split, deserialize_method=raw)  # type: ignore
    filenames = [name.decode() for name in index[f"{split}/filename"].tolist()]
    last = _field(records[len(records) - 1], "filename").decode()  # fails if the file is cut off
    if len(records) != len(filenames) or last != filenames[-1]:
        raise ValueError(f"the images of {split} are not those of {INDEX_NAME}")
    (path,) = Path(builder.data_dir).glob(f"*-{split}.array_record*")
    stat = path.stat()
    state = f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns}"
    rows = np.arange(len(filenames))
    labels = (index[f"{split}/pid"], index[f"{split}/camera"])
    content, images = (
        _content(builder, index, split, names) for names in (LABELS + IMAGES, IMAGES)
    )
    shapes = index.get(f"{split}/shape")  # data sets prepared by older versions have none
    files = _ImageFiles(records, path, index.get(f"{split}/digest"))
    return Split(*labels, filenames, rows, files, state, content, shapes, images)


def _content(
    builder: ReIDBuilder, index: Mapping[str, np.ndarray], split: str, names: Sequence[str]
) -> str:
    """Return a digest of some arrays of a split in the index."""
    digest = hashlib.sha256(f"{builder.name} {builder.VERSION} {split}".encode())
    for name in names:
        if f"{split}/{name}" in index:  # data sets prepared by older versions have no digests
            digest.update(index[f"{split}/{name}"].tobytes())
    if names != IMAGES:  # the bytes hold the numbers of identities, too
        digest.update(str(builder.info.splits[split].num_bytes).encode())
    return digest.hexdigest()[:16]


def _field(record: bytes, name: str) -> bytes:
    """Return one field of a record; TFDS's reader converts all fields and is far slower."""
    return tf_example_pb2.Example.FromString(record).features.feature[name].bytes_list.value[0]
