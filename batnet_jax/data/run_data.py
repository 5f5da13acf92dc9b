"""The data of a run: opens the training and test sets that the config names."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from batnet_jax.data import Dataset, Split, load_dataset, split_name, title_of
from batnet_jax.data.dataset import concatenate
from batnet_jax.data.loading.loader import ImageStore
from batnet_jax.data.matches import check_matches
from batnet_jax.data.sources.folder import Folder
from batnet_jax.data.splits import hold_out, query_and_gallery
from batnet_jax.errors import ArgumentError, UserError

SETTINGS = {
    "variant": "config.data.variant",
    "data_dir": "--config.data.dir=DIR",
    "manual_dir": "--config.data.manual_dir=DIR",
}
"""The setting for each argument of `load_dataset`."""


TRAIN_BY_LABEL = "train by label"
"""The fingerprint of the training images with the labels of the classifier."""


class Identity(NamedTuple):
    """A training identity; its class label is its index in `TrainingSet.identities`."""

    dataset: str
    pid: int
    """The pid in its data set; other data sets may use the same number."""
    name: str = ""
    """The user's name of the identity; "" = none."""


class TrainingSet(NamedTuple):
    """n images with their class labels."""

    images: Split
    labels: np.ndarray
    """[n] int, indices in `identities`."""
    identities: list[Identity]


class RetrievalTest(NamedTuple):
    """A query set and its gallery."""

    name: str
    """The name of the data set."""
    split: str
    """`test`; or `val`, held out of the training data."""
    query: Split
    gallery: Split
    more_query: Split | None = None
    """More images of the query identities in the query cameras, for multi-image queries."""
    names: Sequence[str] = ()
    """The user's names of identities, indexed by pid; empty if there are none."""

    def name_of(self, pid: int) -> str:
        """Return the user's name of an identity; "" if it has none."""
        return self.names[pid] if 0 <= pid < len(self.names) else ""


class RunData(NamedTuple):
    """The training set and the retrieval tests of a run."""

    train: TrainingSet
    val: list[RetrievalTest]
    """One test for each training data set with held-out images."""
    tests: list[RetrievalTest]


def open_run_data(config: ml_collections.ConfigDict, *, write: bool = True) -> RunData:
    """Open all data sets of a run; prepare them first if necessary.

    Args:
      config: of the run.
      write: False = write nothing, see `load_dataset`.

    Raises: UserError if a data set is missing or wrong, or lacks a split that the config needs.
    """
    trained, tested = _names(config)
    opened = _open_all(config, [*trained, *tested], write=write)
    datasets = [opened[name] for name in dict.fromkeys(trained)]
    places = [dataset.path.resolve() for dataset in datasets]
    if len(set(places)) < len(places):
        raise UserError(
            f"config.data.train={tuple(trained)} names a data set twice under two names: give one"
        )
    parts, val = [], []
    for dataset in datasets:
        train, held_out = _hold_out(config, dataset)
        parts.append(train)
        if held_out is not None:
            val.append(_divide(dataset, held_out))
    tests = [_test(config, opened[name]) for name in dict.fromkeys(tested)]
    return RunData(make_training_set(datasets, parts), val, tests)


def open_tests(config: ml_collections.ConfigDict) -> list[RetrievalTest]:
    """Open only the tests, for `eval` mode; validation tests come first.

    Raises: UserError, as `open_run_data` does.
    """
    if config.data.val_identities or config.data.own_val:
        data = open_run_data(config)
        return [*data.val, *data.tests]
    _, tested = _names(config)
    opened = _open_all(config, tested)
    return [_test(config, opened[name]) for name in dict.fromkeys(tested)]


def _names(config: ml_collections.ConfigDict) -> tuple[Sequence[str], Sequence[str]]:
    """Return the names of the training data sets and of the test data sets."""
    trained = config.data.train or (config.data.dataset,)
    return trained, config.eval.datasets or trained


def _open_all(
    config: ml_collections.ConfigDict, names: Sequence[str], *, write: bool = True
) -> dict[str, Dataset]:
    """Open each data set once; give it a title that is the same in every mode."""
    data = config.data
    trained, tested = _names(config)
    titles: dict[str, str] = {}
    for name in dict.fromkeys([*trained, *tested]):
        title, number = title_of(name), 1
        while title in titles.values():  # two folders with the same name
            number += 1
            title = f"{title_of(name)}-{number}"
        titles[name] = title
    opened = {}
    for name in dict.fromkeys(names):
        variant = data.variant if name == data.dataset else ""
        try:
            dataset = load_dataset(
                name,
                variant=variant,
                data_dir=data.dir,
                manual_dir=data.manual_dir,
                layout=data.layout,
                pattern=data.pattern,
                write=write,
            )
        except ArgumentError as error:
            raise UserError(f"{error} ({_setting(error.argument, name)})") from error
        opened[name] = replace(dataset, name=titles[name])
    return opened


def _setting(argument: str, name: str) -> str:
    """Return the setting that holds an argument of `load_dataset`, for a message."""
    base, detail, _ = split_name(name)
    if detail and argument == ("manual_dir" if base == Folder.name else "variant"):
        return f"in {name!r}"
    return SETTINGS[argument]


def _test(config: ml_collections.ConfigDict, dataset: Dataset) -> RetrievalTest:
    gallery, more = dataset.gallery, None
    if config.eval.distractors:
        crowd = _optional(dataset, "distractors", "eval.distractors", "its folder of distractors")
        gallery = concatenate([gallery, crowd])
    if config.eval.multi_query != "none":
        more = _optional(dataset, "multi_query", "eval.multi_query", "gt_bbox/")
    _check_matches(config, dataset, f"the test of {dataset.name}", dataset.query, gallery)
    return RetrievalTest(dataset.name, "test", dataset.query, gallery, more, dataset.identity_names)


def _check_matches(
    config: ml_collections.ConfigDict, dataset: Dataset, title: str, query: Split, gallery: Split
) -> None:
    """Refuse a test in which no query can have a match; see `check_matches`."""
    rule, names = config.eval.same_camera, list(dataset.identity_names)
    check_matches(title, query, gallery, rule, names)


def _optional(dataset: Dataset, split: str, field: str, folder: str) -> Split:
    """Return an optional split.

    Raises: UserError if the data set was prepared without it.
    """
    found = getattr(dataset, split)
    if found is None:
        raise UserError(
            f"config.{field} is on, but {dataset.name} was prepared without it: put {folder} "
            f"beside query/ (only market1501 has it), delete '{dataset.path}', and run again"
        )
    return found


def _hold_out(config: ml_collections.ConfigDict, dataset: Dataset) -> tuple[Split, Split | None]:
    """Return the training images and the validation images; None = no validation."""
    train = dataset.train
    if config.data.own_val:
        if dataset.val is None:
            raise UserError(
                f"config.data.own_val is on, but {dataset.name} has no val split of its own: "
                "use --config.data.val_identities=0.1"
            )
        held_out = np.isin(train.filenames, dataset.val.filenames)
        return train.take(~held_out), dataset.val
    if config.data.val_identities:
        held_out = hold_out(train.pids, config.data.val_identities)
        return train.take(~held_out), train.take(held_out)
    return train, None


def _divide(dataset: Dataset, held_out: Split) -> RetrievalTest:
    query, gallery = query_and_gallery(held_out.pids, held_out.cameras)
    if not len(query):
        raise UserError(
            f"the {len(set(held_out.pids))} identities held out of {dataset.name} have no two "
            "images (from two cameras, where cameras are known): raise "
            "config.data.val_identities, or set it to 0"
        )
    return RetrievalTest(
        dataset.name,
        "val",
        held_out.take(query),
        held_out.take(gallery),
        names=dataset.identity_names,
    )


def make_training_set(datasets: Sequence[Dataset], splits: Sequence[Split]) -> TrainingSet:
    """Merge several data sets; the same pid in two data sets becomes two identities.

    Args:
      datasets: the data sets, for their names.
      splits: the training images of each data set.
    """
    labels, identities = [], []
    for dataset, split in zip(datasets, splits, strict=True):
        pids, indices = np.unique(split.pids, return_inverse=True)
        labels.append(indices + len(identities))
        names = list(dataset.identity_names)
        identities += [Identity(dataset.name, p, names[p] if names else "") for p in pids.tolist()]
    return TrainingSet(concatenate(splits), np.concatenate(labels), identities)


def fingerprints(data: RunData) -> dict[str, str]:
    """Return fingerprints of a run's images and labels, the same on every machine.

    Returns: by name: `train`; `TRAIN_BY_LABEL`, which does not change if people join the test, as
      their numbers do not count; and `<data set> <val or test>` for each test.
    """
    images, labels, _ = data.train
    by_label = f"{images.images_fingerprint()} {labels.astype('<i8').tobytes().hex()}"
    found = {
        "train": images.content_fingerprint(),
        TRAIN_BY_LABEL: hashlib.sha256(by_label.encode()).hexdigest()[:16],
    }
    for test in (*data.val, *data.tests):
        splits = (test.query, test.gallery)
        found[f"{test.name} {test.split}"] = " ".join(s.content_fingerprint() for s in splits)
    return found


def describe_sets(test: RetrievalTest) -> dict[str, dict[str, Any]]:
    """Return the number of images and the fingerprints of a test's image sets, as JSON.

    Returns: by name (`query`, `gallery`, and `more_query` if the test has it): `images`, the
      number; `labels`, the fingerprint of names, pids and cameras; `content`, the fingerprint of
      images and labels.
    """
    sets = {"query": test.query, "gallery": test.gallery, "more_query": test.more_query}
    return {
        name: {
            "images": len(split),
            "labels": split.label_fingerprint(),
            "content": split.content_fingerprint(),
        }
        for name, split in sets.items()
        if split is not None
    }


def open_store(config: ml_collections.ConfigDict, split: Split, *, keep: bool = True) -> ImageStore:
    """Open the images of a split, decoded as the config's `data` section says.

    Args:
      config: its `data` section is read.
      split: the images.
      keep: keep decoded images in the caches; False if each image is needed once.
    """
    data = config.data
    return ImageStore(
        split,
        image_size=tuple(data.image_size),
        cache_gb=data.cache_gb if keep else 0.0,
        workers=data.workers,
        disk_cache=Path(data.dir) / "decoded" / split.fingerprint(),
        disk_cache_gb=data.disk_cache_gb if keep else 0.0,
        alpha=data.alpha,
    )
