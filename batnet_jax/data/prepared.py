"""Prepared data sets: made once, under a lock, then opened at random access."""

import contextlib
import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.proto import tf_example_pb2

from batnet_jax.data.builder import INDEX_NAME, ReIDBuilder
from batnet_jax.errors import ArgumentError, UserError

OPTIONAL = ("val", "multi_query", "distractors")
"""Splits that only some data sets have, or only if the user has their files."""


@dataclass(frozen=True, eq=False)
class Split:
    """n images of a prepared split, in the order of their names unless `take` chose otherwise."""

    pids: np.ndarray
    """[n] int64, as in the data set: neither contiguous nor distinct between splits."""

    cameras: np.ndarray
    """[n] int64; -1 throughout where cameras are not known."""

    filenames: list[str]
    """Relative to the split's folder in the original data set."""

    rows: np.ndarray
    """[n] int64, the images' places in `files`."""

    files: Sequence[bytes]
    """The image files of the whole prepared split, read when they are asked for."""

    file_state: str
    """Changes whenever the prepared files do."""

    content_digest: str = ""
    """Changes whenever labels or images of the whole split do, but not from place to place."""

    def __len__(self) -> int:
        return len(self.filenames)

    def encoded(self, i: int) -> bytes:
        """The bytes of the file of image i; safe to call from several threads."""
        return self.files[self.rows[i]]

    def take(self, rows: np.ndarray) -> "Split":
        """The images at `rows`, [m] int indices or [n] bool."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return Split(
            self.pids[rows],
            self.cameras[rows],
            [self.filenames[row] for row in rows],
            self.rows[rows],
            self.files,
            self.file_state,
            self.content_digest,
        )

    def fingerprint(self) -> str:
        """A name for these very images, for caches of them."""
        return hashlib.sha256(self.file_state.encode() + self.rows.tobytes()).hexdigest()[:16]

    def content_fingerprint(self) -> str:
        """A name for these images and labels, the same wherever they are prepared."""
        return hashlib.sha256(self.content_digest.encode() + self.rows.tobytes()).hexdigest()[:16]


class _ImageFiles(Sequence[bytes]):
    """The image files in the records of a prepared split."""

    def __init__(self, records: Sequence[bytes], path: Path):
        self._records = records
        self._path = path

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: Any) -> Any:
        try:
            return _field(self._records[row], "image")
        except MemoryError:
            raise
        except Exception as error:  # ArrayRecord and protobuf raise many types
            raise OSError(f"{error} in '{self._path}'") from error


class _Chain(Sequence[bytes]):
    """Several sequences, one after the other."""

    def __init__(self, parts: Sequence[Sequence[bytes]]):
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: Any) -> Any:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._parts[part][row - self._starts[part]]


def concatenate(splits: Sequence[Split]) -> Split:
    """The images of several splits, one after the other."""
    if len(splits) == 1:
        return splits[0]
    files = _Chain([split.files for split in splits])
    starts = np.cumsum([0, *(len(split.files) for split in splits)])
    return Split(
        np.concatenate([split.pids for split in splits]),
        np.concatenate([split.cameras for split in splits]),
        [name for split in splits for name in split.filenames],
        np.concatenate([split.rows + start for split, start in zip(splits, starts, strict=False)]),
        files,
        " ".join(split.file_state for split in splits),
        " ".join(split.content_digest for split in splits),
    )


@dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared data set."""

    name: str
    """The builder's; with the variant, if the user named one."""

    path: Path
    """Where the prepared files are."""

    train: Split
    query: Split
    gallery: Split
    val: Split | None = None
    multi_query: Split | None = None
    distractors: Split | None = None

    identity_names: Sequence[str] = ()
    """The name of pid i at place i, where the user gave names; empty where pids are numbers."""


def open_prepared(builder: ReIDBuilder, name: str) -> Dataset:
    """Opens a data set, preparing it first if need be.

    Args:
      builder: see `make_builder`.
      name: of the result.

    Raises: UserError if anything that the user gave is missing or wrong, nothing is left of the
      preparation then; or if what was prepared before is damaged.
    """
    if not is_prepared(builder):
        _prepare(builder)
    path = Path(builder.data_dir)
    try:
        if not builder.info.splits:  # another process prepared it after the builder was made
            builder.info.read_from_directory(builder.data_dir)
        with open(path / INDEX_NAME, "rb") as file, np.load(file) as index:
            found = [split for split in OPTIONAL if f"{split}/pid" in index]
            splits: dict[str, Any] = {
                split: _open_split(builder, index, split)
                for split in ("train", "query", "gallery", *found)
            }
            names = [name.decode() for name in index["identity_names"].tolist()]
            return Dataset(name, path, identity_names=names, **splits)
    except Exception as error:
        raise UserError(f"'{builder.data_dir}' is damaged: delete it, and run again") from error


def make_builder(
    cls: type[ReIDBuilder], variant: str, data_dir: Path, manual_dir: Path
) -> ReIDBuilder:
    """A builder that reads `manual_dir` and writes below `data_dir`.

    Raises: UserError if there is no such variant, or for `folder` no such folder.
    """
    if not variant and cls.DETECTS_VARIANT:  # the one that is prepared, if there is just one
        places = data_dir.glob(f"{cls.name}/*/{cls.VERSION}/{INDEX_NAME}")
        prepared = [place.parents[1].name for place in places]
        variant = prepared[0] if len(prepared) == 1 else ""
    config = cls.choose_config(variant, str(manual_dir))
    try:
        with _quiet_absl():
            builder = cls(data_dir=data_dir, config=config, file_format="array_record")
    except Exception as error:  # TFDS reads what is prepared already
        raise UserError(
            f"'{data_dir / cls.name}' holds a damaged prepared data set: delete it, and run again"
        ) from error
    builder.manual_path = manual_dir
    builder.final_path = Path(builder.data_dir)
    return builder


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """Keeps TFDS from warning about custom configs."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def is_prepared(builder: ReIDBuilder) -> bool:
    """Whether a whole prepared data set is there."""
    return (Path(builder.data_dir) / INDEX_NAME).exists()


def _prepare(builder: ReIDBuilder) -> None:
    """Prepares the data set, unless another process is just doing so: then waits for it.

    TFDS writes into a folder of another name and renames it at the end, so a run that was killed
    leaves nothing that looks whole; the lock shows that such a folder is nobody's, and may go.
    """
    final = Path(builder.data_dir)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = (final.parent / ".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise ArgumentError(
            "data_dir", f"cannot write to '{final.parent}' ({error.strerror}): name another folder"
        ) from error
    with lock:
        if is_prepared(builder):
            return
        if final.exists():
            raise UserError(f"'{final}' is not a whole prepared data set: delete it, and run again")
        for leftover in final.parent.glob(f"incomplete.*_{final.name}"):
            shutil.rmtree(leftover)
        try:
            with tempfile.TemporaryDirectory() as scratch:  # TFDS wants one, and leaves it empty
                builder.download_and_prepare(download_dir=scratch, file_format="array_record")
        except OSError as error:  # those of reading are the user's errors already
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
    content = _content(builder, index, split)
    return Split(*labels, filenames, rows, _ImageFiles(records, path), state, content)


def _content(builder: ReIDBuilder, index: Mapping[str, np.ndarray], split: str) -> str:
    """A digest of a split's labels, names and images."""
    digest = hashlib.sha256(f"{builder.name} {builder.VERSION} {split}".encode())
    for name in ("pid", "camera", "filename", "digest"):
        if f"{split}/{name}" in index:  # data sets prepared by older versions have no digests
            digest.update(index[f"{split}/{name}"].tobytes())
    digest.update(str(builder.info.splits[split].num_bytes).encode())
    return digest.hexdigest()[:16]


def _field(record: bytes, name: str) -> bytes:
    """A field of a record; TFDS's own reading makes arrays of all fields, and takes far longer."""
    return tf_example_pb2.Example.FromString(record).features.feature[name].bytes_list.value[0]
