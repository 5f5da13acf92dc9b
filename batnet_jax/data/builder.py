"""What the TFDS builders of all data sets share: features, writing, the index of the labels."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.splits import SplitDict
from tqdm import tqdm

from batnet_jax.data.checks import Copies, Count, check_image, count, count_warnings, format_counts
from batnet_jax.data.files.find_dataset import choose_tree, find_trees
from batnet_jax.data.files.tree import FileTree
from batnet_jax.errors import ArgumentError, UserError

INDEX_NAME = "index.npz"
"""Beside the images: the labels of every split, so that opening a data set does not read them."""

UNKNOWN_CAMERA = -1
"""Of every image of a data set that knows no cameras."""


class Photo(NamedTuple):
    """The labels of one image."""

    filename: str
    """Relative to its split's folder, unique in the split."""
    pid: int
    camera: int
    """0 or more, or `UNKNOWN_CAMERA` throughout the data set."""


class SplitSource(NamedTuple):
    """One split as a builder finds it."""

    photos: list[Photo]
    """Sorted by filename: the order of the prepared split."""
    encoded: Iterable[bytes]
    """The image files' bytes in the same order; read once."""
    junk: int = 0
    """How many images were left out."""


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
    FOLDER_WORD = ""
    """Part of its folder's usual name, which decides if several folders will do."""
    DETECTS_VARIANT = False
    """Whether a variant that is not named is the one that is there, rather than the first."""
    DISTRACTOR_PID: int | None = None
    """The pid of images of nobody who is searched for, if there are any."""

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
            message = f"{variant!r} is no variant of {cls.name}: {allowed}"
            raise ArgumentError("variant", message)
        return variant or (names[0] if names else None)

    def sources(self) -> dict[str, SplitSource]:
        """The splits train, query and gallery, and others if there are, from `manual_path`.

        Raises: UserError if files are missing or wrong.
        """
        raise NotImplementedError

    def published_counts(self) -> Mapping[str, Count]:
        """The splits' sizes as published; a copy that differs is warned of."""
        return {}

    def identity_names(self) -> list[str]:
        """The name of pid i at place i, where the user gave names; after `sources`."""
        return []

    @property
    def variant(self) -> str:
        """The name of the config; "" if there are no configs."""
        return self.builder_config.name if self.builder_config else ""

    @classmethod
    def find(
        cls,
        manual_dir: str | os.PathLike,
        markers: tuple[str, ...],
        problem: Callable[[FileTree], str] = lambda _: "",
    ) -> FileTree:
        """The one tree in `manual_dir` that has one of `markers` at its top, see `find_trees`.

        Args:
          manual_dir: of the user; need not exist.
          markers: relative paths of folders or files.
          problem: why a tree with a marker is not wanted, to say if there is no other; "" = it is.

        Raises: UserError if there is none, or more than one.
        """
        trees = find_trees(manual_dir, markers, lambda tree: not problem(tree))
        problems = [problem(tree) for tree in trees]
        wanted = [tree for tree, why in zip(trees, problems, strict=True) if not why]
        if not wanted:
            seen = "".join(f" ({why})" for why in problems[:1])
            raise ArgumentError(
                "manual_dir",
                f"{cls.TITLE} not found in '{manual_dir}'{seen}: put {cls.WANTED} (or its "
                ".zip/.tar) there, or name another place",
            )
        return choose_tree(wanted, cls.FOLDER_WORD)

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
        index = _index(sources)
        print(f"preparing {self.name}, in {self.final_path}", file=sys.stderr)
        self._report_counts(sources, index)
        copies = Copies()
        splits = [self._write_split(split, source, copies) for split, source in sources.items()]
        self._warn(
            copies.warnings(
                {split: [p.filename for p in source.photos] for split, source in sources.items()},
                {split: index[f"{split}/pid"] for split in sources},
                {split: index[f"{split}/camera"] for split in sources},
            )
        )
        self.info.set_splits(SplitDict(splits))
        index |= {f"{split}/digest": copies.digests(split) for split in sources}
        names = np.array([_utf8(name) for name in self.identity_names()], np.bytes_)
        index["identity_names"] = names
        np.savez(os.path.join(self.data_dir, INDEX_NAME), **index)  # type: ignore

    def _report_counts(
        self, sources: Mapping[str, SplitSource], index: Mapping[str, np.ndarray]
    ) -> None:
        """Shows the sizes of all splits; warns where they are not the published ones."""
        counts = {
            split: count(
                index[f"{split}/pid"],
                index[f"{split}/camera"],
                distractor=self.DISTRACTOR_PID,
                junk=source.junk,
            )
            for split, source in sources.items()
        }
        print(format_counts(counts), file=sys.stderr)
        self._warn(count_warnings(counts, self.published_counts()))

    def _warn(self, lines: Iterable[str]) -> None:
        for line in lines:
            print(f"warning: {self.TITLE}: {line}", file=sys.stderr)

    def _write_split(self, split: str, source: SplitSource, copies: Copies) -> tfds.core.SplitInfo:
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
                copies.add(split, example["image"])
                record = serializer.serialize_example(features.encode_example(example))
                with self._writing():
                    writer.write(record)
                num_bytes += len(record)
        finally:
            with self._writing():
                writer.close()
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(source.photos)],
            num_bytes=num_bytes,
            filename_template=template,
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A disk that is full, or gone, as the user's error."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ArgumentError(
                "data_dir",
                f"cannot write to '{self.final_path}' ({reason}): make room, or name another "
                "folder",
            ) from error

    def _log_download_bytes(self) -> None:
        """TFDS would print to stdout here; `load_dataset` tells the user."""

    def _log_download_done(self) -> None:
        """The same."""


def _index(sources: Mapping[str, SplitSource]) -> dict[str, np.ndarray]:
    """The labels of all splits as arrays, under `split/label`."""
    arrays: dict[str, np.ndarray] = {}
    for split, source in sources.items():
        arrays[f"{split}/pid"] = np.array([p.pid for p in source.photos], np.int64)
        arrays[f"{split}/camera"] = np.array([p.camera for p in source.photos], np.int64)
        arrays[f"{split}/filename"] = np.array(
            [_utf8(p.filename) for p in source.photos], np.bytes_
        )
    return arrays


def _utf8(name: str) -> bytes:
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise UserError(f"the file name {name!a} is not UTF-8: rename it") from None
