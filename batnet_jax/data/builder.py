"""What the TFDS builders of all data sets share: features, writing, the index of the labels."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.splits import SplitDict
from tqdm import tqdm

from batnet_jax.data.files import FileTree, find_layout
from batnet_jax.errors import UserError

INDEX_NAME = "index.npz"
"""Beside the images: the labels of every split, so that opening a data set does not read them."""


class Photo(NamedTuple):
    """The labels of one image."""

    filename: str
    """Relative to its split's folder, unique in the split."""
    pid: int
    camera: int


class SplitSource(NamedTuple):
    """One split as a builder finds it."""

    photos: list[Photo]
    """Sorted by filename: the order of the prepared split."""
    encoded: Iterable[bytes]
    """The image files' bytes in the same order; read once."""


class ReIDBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore
    """A re-identification data set; subclasses say where its images are.

    The images are stored as the bytes of their files, in the order of their names. Nothing here
    needs TensorFlow, or the network. `_download_and_prepare` replaces TFDS's own writing, which
    shuffles and, for a split of more than 1 GB, calls TensorFlow.
    """

    VERSION = tfds.core.Version("1.0.0")
    TITLE = ""
    """For messages."""
    WANTED = ""
    """What the user has to put into manual_dir; "" if nothing."""

    manual_path: Path = Path()
    """Where the user's files are: a directory or an archive; need not exist."""

    final_path: Path = Path()
    """Where the prepared data set will be."""

    @classmethod
    def choose_config(cls, variant: str, manual_dir: str) -> str | tfds.core.BuilderConfig | None:
        """The config for a `variant`, "" being the first.

        Raises: UserError if there is no such variant.
        """
        names = [config.name for config in cls.BUILDER_CONFIGS]
        if variant and variant not in names:
            allowed = (
                f"choose one of {', '.join(names)}" if names else "it has none: leave it empty"
            )
            raise UserError(
                f"config.data.variant={variant!r} is no variant of {cls.name}: {allowed}"
            )
        return variant or (names[0] if names else None)

    def sources(self) -> dict[str, SplitSource]:
        """The splits train, query and gallery, read from `manual_path`.

        Raises: UserError if files are missing or wrong.
        """
        raise NotImplementedError

    @property
    def variant(self) -> str:
        """The name of the config; "" if there are no configs."""
        return self.builder_config.name if self.builder_config else ""

    @classmethod
    def find(
        cls, manual_dir: str | os.PathLike, markers: tuple[str, ...], owner: str = ""
    ) -> FileTree:
        """The tree in `manual_dir` with one of the folders `markers`, see `find_layout`.

        Raises: UserError if there is none.
        """
        tree = find_layout(manual_dir, markers, owner)
        if tree is None:
            raise UserError(
                f"{cls.TITLE} not found in '{manual_dir}': put {cls.WANTED} (or its .zip/.tar) "
                "there, or pass --config.data.manual_dir=DIR"
            )
        return tree

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "pid": np.int64,
                "camera": np.int64,
                "filename": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self, description=self.TITLE, features=features, disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {split: self._generate_examples(s) for split, s in self.sources().items()}

    def _generate_examples(self, source: SplitSource):
        for photo, encoded in zip(source.photos, source.encoded, strict=True):
            check_image(encoded, photo.filename)
            yield photo.filename, {"image": encoded, **photo._asdict()}

    def _download_and_prepare(self, dl_manager, download_config) -> None:
        """Writes every split in order into one ArrayRecord file, then the index."""
        del dl_manager, download_config
        sources = self.sources()
        total = sum(len(source.photos) for source in sources.values())
        print(f"preparing {self.name}: {total} images, in {self.final_path}", file=sys.stderr)
        splits = [self._write_split(split, source) for split, source in sources.items()]
        self.info.set_splits(SplitDict(splits))
        arrays = {}
        for split, source in sources.items():
            arrays[f"{split}/pid"] = np.array([p.pid for p in source.photos], np.int64)
            arrays[f"{split}/camera"] = np.array([p.camera for p in source.photos], np.int64)
            arrays[f"{split}/filename"] = np.array([p.filename for p in source.photos], np.str_)
        np.savez(os.path.join(self.data_dir, INDEX_NAME), **arrays)

    def _write_split(self, split: str, source: SplitSource) -> tfds.core.SplitInfo:
        features = self.info.features
        assert features is not None  # `_info` gives them
        serializer = ExampleSerializer(features.get_serialized_info())  # type: ignore
        template = self._get_filename_template(split_name=split)
        path = template.sharded_filepath(shard_index=0, num_shards=1)
        writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
        num_bytes = 0
        progress = {"desc": f"{self.name} {split}", "unit": " images", "disable": None}
        examples = self._generate_examples(source)
        try:
            for _, example in tqdm(examples, total=len(source.photos), file=sys.stderr, **progress):
                record = serializer.serialize_example(features.encode_example(example))
                writer.write(record)
                num_bytes += len(record)
        finally:
            writer.close()
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(source.photos)],
            num_bytes=num_bytes,
            filename_template=template,
        )

    def _log_download_bytes(self) -> None:
        """TFDS would print to stdout here; `load_dataset` tells the user."""

    def _log_download_done(self) -> None:
        """The same."""


def check_image(encoded: bytes, name: str) -> None:
    """Decodes an image as training will.

    Raises: UserError if it is empty, cut off, or no image.
    """
    data = np.frombuffer(encoded, np.uint8)
    if len(data) == 0 or cv2.imdecode(data, cv2.IMREAD_COLOR) is None:
        problem = "is empty" if len(data) == 0 else "cannot be decoded (cut off, or no image)"
        raise UserError(f"'{name}' {problem}: restore or remove it, then run again")
