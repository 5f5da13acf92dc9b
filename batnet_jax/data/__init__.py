"""The data sets: prepared once into ArrayRecord files, then read at random."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from batnet_jax.data.builder import INDEX_NAME, ReIDBuilder
from batnet_jax.data.cuhk03 import Cuhk03
from batnet_jax.data.folder import Folder
from batnet_jax.data.market import DukemtmcReid, Market1501
from batnet_jax.data.msmt17 import Msmt17
from batnet_jax.data.pedestrians_builder import Pedestrians
from batnet_jax.errors import UserError

BUILDERS = (Pedestrians, Market1501, DukemtmcReid, Cuhk03, Msmt17, Folder)
DATASETS: dict[str, type[ReIDBuilder]] = {builder.name: builder for builder in BUILDERS}
SPLITS = ("train", "query", "gallery")
MANUAL_DIR = "data/manual"


@dataclass(frozen=True, eq=False)
class Split:
    """The n images of a split, sorted by filename."""

    pids: np.ndarray
    """[n] int64, as in the data set: neither contiguous nor distinct between splits."""

    cameras: np.ndarray
    """[n] int64."""

    filenames: list[str]
    """Relative to the split's folder in the original data set."""

    examples: Sequence[dict]
    """The prepared TFDS data source, its images not decoded."""

    def __len__(self) -> int:
        return len(self.filenames)

    def encoded(self, i: int) -> bytes:
        """The bytes of the file of image i; safe to call from several threads."""
        return self.examples[i]["image"]


class Dataset(NamedTuple):
    """A prepared data set."""

    name: str
    train: Split
    query: Split
    gallery: Split


def load_dataset(
    name: str, *, variant: str = "", data_dir: str | os.PathLike, manual_dir: str | os.PathLike = ""
) -> Dataset:
    """Opens a data set, preparing it first if need be.

    Args:
      name: one of `DATASETS`.
      variant: one of the builder's configs; "" = its first.
      data_dir: prepared data sets are looked for and written here.
      manual_dir: where the user's files are: a folder or an archive, see the builders; "" =
        `MANUAL_DIR`. Not looked at if the data set is prepared already, except for `folder`, which
        follows the user's changes.

    Raises: UserError if anything that the user gave is missing or wrong; nothing is left of the
      preparation then.
    """
    if name not in DATASETS:
        raise UserError(f"config.data.dataset={name!r} is unknown: choose {', '.join(DATASETS)}")
    builder = _builder(DATASETS[name], variant, Path(data_dir), Path(manual_dir or MANUAL_DIR))
    if not _is_prepared(builder):
        _prepare(builder)
    return _open(builder)


def _builder(cls: type[ReIDBuilder], variant: str, data_dir: Path, manual_dir: Path) -> ReIDBuilder:
    config = cls.choose_config(variant, str(manual_dir))
    with _quiet_absl():
        builder = cls(data_dir=data_dir, config=config, file_format="array_record")
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


def _is_prepared(builder: ReIDBuilder) -> bool:
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
    except OSError as error:
        raise UserError(
            f"cannot write to '{final.parent}' ({error.strerror}): "
            "name another folder with --config.data.dir=DIR"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_prepared(builder):
            builder.info.read_from_directory(builder.data_dir)
            return
        if final.exists():
            raise UserError(f"'{final}' is not a whole prepared data set: delete it, and run again")
        for leftover in final.parent.glob(f"incomplete.*_{final.name}"):
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory() as scratch:  # TFDS insists on one, and leaves it empty
            builder.download_and_prepare(download_dir=scratch, file_format="array_record")


def _open(builder: ReIDBuilder) -> Dataset:
    try:
        with open(Path(builder.data_dir) / INDEX_NAME, "rb") as file, np.load(file) as index:
            return Dataset(builder.name, *(_open_split(builder, index, split) for split in SPLITS))
    except Exception as error:
        raise UserError(f"'{builder.data_dir}' is damaged: delete it, and run again") from error


def _open_split(builder: ReIDBuilder, index: Mapping[str, np.ndarray], split: str) -> Split:
    decoders = {"image": tfds.decode.SkipDecoding()}
    examples = builder.as_data_source(split, decoders=decoders)  # type: ignore
    filenames = index[f"{split}/filename"].tolist()
    last = examples[len(examples) - 1]["filename"].decode()  # fails if the file is cut off
    if len(examples) != len(filenames) or last != filenames[-1]:
        raise ValueError(f"the images of {split} are not those of {INDEX_NAME}")
    return Split(index[f"{split}/pid"], index[f"{split}/camera"], filenames, examples)
