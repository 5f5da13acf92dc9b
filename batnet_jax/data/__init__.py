"""The data sets: prepared once into ArrayRecord files, then read at random."""

import os
from pathlib import Path

from batnet_jax.data.builder import ReIDBuilder
from batnet_jax.data.prepared import Dataset, Split, make_builder, open_prepared
from batnet_jax.data.sources.cuhk03 import Cuhk03
from batnet_jax.data.sources.folder import Folder
from batnet_jax.data.sources.market import DukemtmcReid, Market1501
from batnet_jax.data.sources.msmt17 import Msmt17
from batnet_jax.data.sources.pedestrians import Pedestrians
from batnet_jax.errors import UserError

__all__ = ["BUILDERS", "DATASETS", "Dataset", "Split", "check_name", "load_dataset", "title_of"]

BUILDERS = (Pedestrians, Market1501, DukemtmcReid, Cuhk03, Msmt17, Folder)
DATASETS: dict[str, type[ReIDBuilder]] = {builder.name: builder for builder in BUILDERS}
MANUAL_DIR = "data/manual"


def check_name(name: str, setting: str = "name") -> None:
    """Raise a UserError that lists the data sets if no data set has this name.

    Args:
      name: as in `load_dataset`.
      setting: what the caller calls the name, for the message.
    """
    if str(name).split(":")[0] not in DATASETS:
        raise UserError(f"{setting}={name!r} is unknown: choose {', '.join(DATASETS)}")


def load_dataset(
    name: str, *, variant: str = "", data_dir: str | os.PathLike, manual_dir: str | os.PathLike = ""
) -> Dataset:
    """Opens a data set, preparing it first if need be.

    Args:
      name: one of `DATASETS`, or one with a variant, such as `msmt17:v2`; or `folder:DIR`, which
        overrides `manual_dir`.
      variant: one of the builder's configs; "" = its first.
      data_dir: prepared data sets are looked for and written here.
      manual_dir: where the user's files are: a folder or an archive, see the builders; "" =
        `MANUAL_DIR`. Not looked at if the data set is prepared already, except for `folder`, which
        follows the user's changes.

    Raises: UserError if anything that the user gave is missing or wrong; nothing is left of the
      preparation then.
    """
    check_name(name)
    base, _, detail = name.partition(":")
    if base == Folder.name and detail:
        manual_dir = detail
    elif detail:
        variant = detail
    builder = make_builder(DATASETS[base], variant, Path(data_dir), Path(manual_dir or MANUAL_DIR))
    return open_prepared(builder, title_of(name))


def title_of(name: str) -> str:
    """The name of a data set in results: `market1501`, `msmt17-v2`, `folder-mine`."""
    base, _, detail = name.partition(":")
    return f"{base}-{Path(detail).stem if base == Folder.name else detail}" if detail else base
