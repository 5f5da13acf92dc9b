"""Data sets: prepared once as ArrayRecord files, then read at random.

| module | purpose |
|---|---|
| `files/` | reads a user's folders, archives and image headers safely |
| `sources/` | finds the images and labels of each public data set, and of a user's own |
| `pedestrians/` | draws the images of the embedded data set |
| `builder`, `checks` | write a prepared data set; check images, counts and copies |
| `label_index` | the labels of a prepared data set, with a checksum |
| `dataset` | an open data set: `Dataset`, `Split` |
| `prepared` | prepares a data set, or opens a prepared one |
| `splits` | divides identities into training and test, images into query and gallery |
| `matches` | refuses a test in which no query can have a match |
| `run_data` | opens all data sets of a run by the names in the config |
| `loading/` | samples batches, decodes images, caches and prefetches them |
"""

import os
import re
from pathlib import Path

from batnet_jax.data.builder import Photo, Reading, ReIDBuilder, SplitSource
from batnet_jax.data.dataset import Dataset, Split
from batnet_jax.data.files.read_table import is_table
from batnet_jax.data.files.safe_open import check_local
from batnet_jax.data.prepared import look, make_builder, open_prepared
from batnet_jax.data.sources.cuhk03 import Cuhk03
from batnet_jax.data.sources.file_labels import compile_pattern
from batnet_jax.data.sources.folder import Folder
from batnet_jax.data.sources.layout import parse_layout
from batnet_jax.data.sources.market import DukemtmcReid, Market1501
from batnet_jax.data.sources.msmt17 import Msmt17
from batnet_jax.data.sources.pedestrians import Pedestrians
from batnet_jax.data.sources.table import Table
from batnet_jax.errors import UserError
from batnet_jax.runtime import own_code

__all__ = [
    "BUILDERS",
    "DATASETS",
    "Dataset",
    "Photo",
    "ReIDBuilder",
    "Split",
    "SplitSource",
    "builder_of",
    "check_name",
    "check_reading",
    "load_dataset",
    "split_name",
    "title_of",
]

BUILDERS = (Pedestrians, Market1501, DukemtmcReid, Cuhk03, Msmt17, Folder)
DATASETS: dict[str, type[ReIDBuilder]] = {builder.name: builder for builder in BUILDERS}
MANUAL_DIR = "data/manual"


_READING = re.compile(
    r"\?(?=layout=|pattern=)(?:layout=(?P<layout>[^&]*)&?)?(?:pattern=(?P<pattern>.*))?$"
)
"""The end of a name such as `folder:DIR?layout=camera/person&pattern=...`."""


def split_name(name: str) -> tuple[str, str, Reading | None]:
    """Split the name of a data set, see `load_dataset`, into its parts.

    Returns: the name in `DATASETS`, or an import path; the variant or, for `folder`, the place; and
      the layout and the pattern that the name gives to a folder, None if it gives neither.
    """
    base, _, detail = str(name).partition(":")
    if base not in DATASETS:
        inner, _, rest = detail.partition(":")
        if own_code.is_import_path(f"{base}:{inner}"):
            return f"{base}:{inner}", rest, None
    match = _READING.search(detail) if base == Folder.name else None
    if match is None:
        return base, detail, None
    return base, detail[: match.start()], Reading(match["layout"] or "", match["pattern"] or "")


def check_name(name: str, setting: str = "name") -> None:
    """Raise a UserError if no data set can have this name, or if its layout or pattern is wrong.

    Args:
      name: as in `load_dataset`.
      setting: the setting that holds the name, for the message.
    """
    base, _, reading = split_name(name)
    if base not in DATASETS and not own_code.is_import_path(base):
        raise UserError(
            f"{setting}={name!r} is unknown: choose {', '.join(DATASETS)}, or name your own, as in "
            "mypkg.data:MyImages"
        )
    if reading is not None:
        check_reading(*reading)


def builder_of(name: str) -> type[ReIDBuilder]:
    """Return the class of a data set's builder.

    Raises: UserError if the name is unknown, or an import path leads to something else.
    """
    check_name(name)
    base = split_name(name)[0]
    if base in DATASETS:
        return DATASETS[base]
    try:
        found = own_code.find(base)
    except UserError as error:
        raise UserError(f"{error}, or choose {', '.join(DATASETS)}") from error
    if not (isinstance(found, type) and issubclass(found, ReIDBuilder)):
        raise UserError(f"{base!r} is not a subclass of batnet_jax.data.ReIDBuilder: name one")
    return found


def check_reading(layout: str, pattern: str) -> None:
    """Raise a UserError unless `load_dataset` can take this layout and this pattern."""
    parse_layout(layout)
    compile_pattern(pattern)


def load_dataset(
    name: str,
    *,
    variant: str = "",
    data_dir: str | os.PathLike,
    manual_dir: str | os.PathLike = "",
    layout: str = "",
    pattern: str = "",
    write: bool = True,
) -> Dataset:
    """Open a data set; prepare it first if necessary.

    Args:
      name: a name in `DATASETS`; a name with a variant, such as `msmt17:v2`; `folder:DIR`, which
        overrides `manual_dir`; or the import path of a subclass of `ReIDBuilder`, such as
        `mypkg.data:MyImages`, which is imported. `folder:DIR?layout=...&pattern=...`, or one of the
        two, overrides `layout` and `pattern`, too.
      variant: a name in the builder's `BUILDER_CONFIGS`; "" = the first.
      data_dir: the folder of the prepared data sets.
      manual_dir: the folder or archive with the user's files, see the builders; or, for `folder`, a
        table of images, see `sources/table.py`; "" = `MANUAL_DIR`.
        Ignored if the data set is already prepared. Only `folder` always reads it, to follow the
        user's changes.
      layout: the levels of the folders of `folder`, see `sources/layout.py`; "" = found.
      pattern: a regular expression of the paths of `folder`, see `Reading`; "" = usual names.
      write: False = write nothing: a data set that is not prepared has no images, see `look`.

    Raises: UserError if the user's files or an argument are wrong (ArgumentError if another
      argument would help). A failed preparation leaves no files.
    """
    cls, (base, detail, own) = builder_of(name), split_name(name)
    if base == Folder.name and detail:
        manual_dir = detail
    elif detail:
        variant = detail
    for place in (manual_dir, data_dir):
        check_local(place)
    if cls is Folder and is_table(Path(manual_dir)):
        cls = Table
    builder = make_builder(
        cls,
        variant,
        # Two modules may have a class of the same name.
        Path(data_dir) if base in DATASETS else Path(data_dir, base.partition(":")[0]),
        Path(manual_dir or MANUAL_DIR),
        own or Reading(layout, pattern),
    )
    return (open_prepared if write else look)(builder, title_of(name))


def title_of(name: str) -> str:
    """Return a data set's name in results: `market1501`, `msmt17-v2`, `folder-mine`."""
    base, detail, _ = split_name(name)
    title = base.replace(":", ".")
    return f"{title}-{Path(detail).stem if base == Folder.name else detail}" if detail else title
