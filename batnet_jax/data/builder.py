"""The base class of all TFDS builders: features, writing, the index of labels."""

import contextlib
import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.splits import SplitDict
from tqdm import tqdm

from batnet_jax.data.checks import (
    COMPARED_SPLITS,
    Copies,
    Count,
    check_image,
    count,
    count_warnings,
    format_counts,
    median_aspect,
)
from batnet_jax.data.files.find_dataset import choose_tree, find_trees
from batnet_jax.data.files.pixels import WHITE, describe_transparent
from batnet_jax.data.files.tree import FileTree, describe_left_out
from batnet_jax.data.label_index import INDEX_NAME, NAMES, write_index
from batnet_jax.errors import ArgumentError, UserError, one_line, printable

ALPHA_SETTING = ", unless data.alpha says otherwise"

UNKNOWN_CAMERA = -1
"""The camera of all images in a data set without camera labels."""


class Photo(NamedTuple):
    """The labels of one image."""

    filename: str
    """Relative to the split's folder, unique in the split."""
    pid: int
    camera: int
    """0 or more; or `UNKNOWN_CAMERA` in the whole data set."""


class SplitSource(NamedTuple):
    """One split of the original data set."""

    photos: list[Photo]
    """Sorted by filename, as in the prepared split."""
    encoded: Iterable[bytes]
    """The bytes of the image files in the same order; may be an iterator."""
    junk: int = 0
    """Number of images left out."""
    tree: FileTree | None = None
    """The tree that the files lie in; None if they are drawn."""


class Reading(NamedTuple):
    """The user's settings for reading folders and names; only `folder` uses them."""

    layout: str = ""
    """The levels of folders, such as "split/person", see `sources/layout.py`; "" = to be found."""
    pattern: str = ""
    """A regular expression of paths with the groups `pid` and `camera`; "" = usual names."""


NO_READING = Reading()


class ReIDBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore
    """Base class of the re-identification data sets; subclasses define `sources`.

    Images are stored as the unchanged bytes of their files, sorted by filename. Neither TensorFlow
    nor the network is needed. `_download_and_prepare` replaces TFDS's writer, which shuffles and
    calls TensorFlow for splits of more than 1 GB.
    """

    VERSION = tfds.core.Version("1.0.0")
    TITLE = ""
    """The data set's name in messages."""
    WANTED = ""
    """The files that the user must put into `manual_dir`, for messages; "" = none."""
    FOLDER_WORD = ""
    """A part of the data set's usual folder name: the tie-break among several matching folders."""
    DETECTS_VARIANT = False
    """Whether the default variant is the one found on disk instead of the first."""
    DISTRACTOR_PID: int | None = None
    """The pid of distractor images; None = no distractors."""

    manual_path: Path = Path()
    """The folder or archive with the user's files; need not exist."""

    final_path: Path = Path()
    """The folder of the prepared data set."""

    _transparent = 0
    """Number of images read so far that have a transparent pixel."""

    reading: Reading = NO_READING
    """How to read folders and names."""

    _shapes: list[tuple[int, int]]

    @classmethod
    def choose_config(
        cls, variant: str, manual_dir: str, reading: Reading = NO_READING
    ) -> str | tfds.core.BuilderConfig | None:
        """Return the builder config of a variant; "" = the first.

        Raises: ArgumentError if the variant is unknown.
        """
        names = [config.name for config in cls.BUILDER_CONFIGS]
        if variant and variant not in names:
            allowed = (
                f"choose one of {', '.join(names)}" if names else "it has none: leave it empty"
            )
            message = f"{variant!r} is not a variant of {cls.name}: {allowed}"
            raise ArgumentError("variant", message)
        return variant or (names[0] if names else None)

    def sources(self) -> dict[str, SplitSource]:
        """Return the splits train, query and gallery, and any others, of `manual_path`.

        Raises: UserError if a file is missing or wrong.
        """
        raise NotImplementedError

    def _find_sources(self) -> dict[str, SplitSource]:
        """Return `sources()`.

        Raises: UserError, also if a builder of the user's own lacks a split.
        """
        found = self.sources()
        for split in ("train", "query", "gallery"):
            if split not in found or not found[split].photos:
                raise UserError(f"{self.name} has no images of {split}: its sources() lack them")
        return found

    def published_counts(self) -> Mapping[str, Count]:
        """Return the published sizes of the splits; a copy that differs leads to a warning."""
        return {}

    def identity_names(self) -> list[str]:
        """Return the user's names, indexed by pid; empty = no names. Call `sources` first."""
        return []

    @property
    def variant(self) -> str:
        """The name of the builder config; "" = no configs."""
        return self.builder_config.name if self.builder_config else ""

    @classmethod
    def find(
        cls,
        manual_dir: str | os.PathLike,
        markers: tuple[str, ...],
        problem: Callable[[FileTree], str] = lambda _: "",
        hint: str = "name one",
    ) -> FileTree:
        """Find the only tree in `manual_dir` with one of `markers` at its top, see `find_trees`.

        Args:
          manual_dir: the user's folder or archive; need not exist.
          markers: relative paths of folders or files.
          problem: returns the reason to reject a tree, for the message; "" = accept it.
          hint: the remedy if several trees are accepted.

        Raises: ArgumentError if no tree is accepted, or more than one.
        """
        trees = find_trees(manual_dir, markers, lambda tree: not problem(tree))
        problems = [problem(tree) for tree in trees]
        wanted = [tree for tree, why in zip(trees, problems, strict=True) if not why]
        if not wanted and not os.path.lexists(manual_dir):
            raise ArgumentError(
                "manual_dir",
                f"{cls.TITLE} not found: '{manual_dir}' does not exist: put {cls.WANTED} (or its "
                ".zip/.tar) there, or name another place",
            )
        if not wanted:
            seen = "".join(f" ({why})" for why in problems[:1])
            raise ArgumentError(
                "manual_dir",
                f"{cls.TITLE} not found in '{manual_dir}'{seen}: put {cls.WANTED} (or its "
                ".zip/.tar) there, or name another place",
            )
        return choose_tree(wanted, cls.FOLDER_WORD, hint)

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
            checked = check_image(encoded, photo.filename)
            self._transparent += checked.transparent
            self._shapes.append(checked.shape)
            yield photo.filename, {"image": encoded, **photo._asdict()}

    def _download_and_prepare(self, dl_manager, download_config) -> None:
        """Write each split, in order, into one ArrayRecord file; then write the index."""
        del dl_manager, download_config
        sources = self._find_sources()
        index = _index(sources)
        print(printable(f"preparing {self.name}, in {self.final_path}"), file=sys.stderr)
        self._report_counts(sources, index)
        self._report_left_out(sources)
        copies = Copies()
        splits = []
        for split, source in sources.items():
            self._shapes = []
            splits.append(self._write_split(split, source, copies))
            index[f"{split}/shape"] = np.array(self._shapes, np.int32)
        self._say([f"median height / width of train: {median_aspect(index['train/shape']):.2f}"])
        if self._transparent:
            total = sum(len(source.photos) for source in sources.values())
            self._warn([describe_transparent(self._transparent, total, WHITE) + ALPHA_SETTING])
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
        index[NAMES] = names
        with self._writing():
            write_index(Path(self.data_dir) / INDEX_NAME, index)

    def look(self, most: int) -> dict[str, np.ndarray]:
        """Read the labels of all splits, and the first images of each; report them, write nothing.

        Args:
          most: images of a split that are read and checked.
        Returns: labels as in `INDEX_NAME`, with the shapes of the images that were read.

        Raises: UserError if a file is missing or wrong.
        """
        sources = self._find_sources()
        index = _index(sources)
        print(printable(f"reading {self.name}"), file=sys.stderr)
        self._report_counts(sources, index)
        self._report_left_out(sources)
        for split, source in sources.items():
            self._shapes = []
            for _ in itertools.islice(self._generate_examples(source), most):
                pass
            index[f"{split}/shape"] = np.array(self._shapes, np.int32)
        self._say([f"median height / width of train: {median_aspect(index['train/shape']):.2f}"])
        return index

    def _report_counts(
        self, sources: Mapping[str, SplitSource], index: Mapping[str, np.ndarray]
    ) -> None:
        """Print the sizes of all splits; warn about sizes that differ from the published ones."""
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
        self._say(self._examples(sources))
        self._warn(count_warnings(counts, self.published_counts()))

    def _report_left_out(self, sources: Mapping[str, SplitSource]) -> None:
        """Print the number of files that are not images, by suffix; splits may share a tree."""
        trees = {source.tree.location: source.tree for source in sources.values() if source.tree}
        counts = sum((tree.left_out() for tree in trees.values()), Counter[str]())
        if counts:
            self._warn([describe_left_out(counts)])

    def _examples(self, sources: Mapping[str, SplitSource]) -> list[str]:
        """Return a line for each of three images, one a split, with the labels read."""
        names = self.identity_names()
        lines = []
        for split in COMPARED_SPLITS:
            filename, pid, camera = sources[split].photos[len(sources[split].photos) // 2]
            who = f"{pid} ({names[pid]})" if names else str(pid)
            seen = "unknown" if camera == UNKNOWN_CAMERA else str(camera)
            lines.append(f"for example '{filename}': pid {who}, camera {seen}, split {split}")
        return lines

    def _say(self, lines: Iterable[str]) -> None:
        for line in lines:
            print(printable(f"  {line}"), file=sys.stderr)

    def _warn(self, lines: Iterable[str]) -> None:
        for line in lines:
            print(printable(f"warning: {self.TITLE}: {line}"), file=sys.stderr)

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
        """Raise an ArgumentError if the disk is full or gone."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise ArgumentError(
                "data_dir",
                f"cannot write to '{self.final_path}' ({one_line(error)}): make room, or name "
                "another folder",
            ) from error

    def _log_download_bytes(self) -> None:
        """Do not print to stdout, as TFDS does."""

    def _log_download_done(self) -> None:
        """Do not print to stdout, as TFDS does."""


def _index(sources: Mapping[str, SplitSource]) -> dict[str, np.ndarray]:
    """Return the labels of all splits as arrays with keys `SPLIT/LABEL`."""
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
