"""The folder of shards that `embed` writes: its plan, missing shards, and files of other lists."""

import os
import re
import sys
from pathlib import Path

from batnet_jax.data.loading.described_images import FACTS, DescribedImages
from batnet_jax.errors import UserError, printable
from batnet_jax.evaluation.parquet.facts import Digest
from batnet_jax.inference import shards
from batnet_jax.inference.shards import PLAN, Plan
from batnet_jax.runtime.paths import exists, is_folder

_NAMES_AT_ONCE = 10_000
_OURS = re.compile(rf"{PLAN}\.[0-9a-f]{{8}}\.partial|\..*")
"""Files of a new folder: the plan of a process that begins at the same time, and hidden files."""


def digest_of_images(images: DescribedImages) -> str:
    """Return a digest of the paths of images and of their columns in a table."""
    digest = Digest()
    for start in range(0, len(images), _NAMES_AT_ONCE):
        digest.add(images.filenames[start : start + _NAMES_AT_ONCE])
    for name in sorted(images.columns.keys() - set(FACTS)):
        digest.add([name])
        digest.add(images.columns[name])
    return digest.text()


def begin(folder: Path, wanted: Plan, *, given: bool) -> Plan:
    """Return the plan of a folder; write it into a new one.

    Args:
      folder: of the shards.
      wanted: the plan of a new folder.
      given: the user has chosen the images of a shard.

    Raises: UserError if the folder holds something else; OSError if the plan cannot be written.
    """
    if not exists(folder / PLAN):
        if exists(folder) and not is_folder(folder):
            raise UserError(f"--output={folder} is a file: name a folder")
        names = os.listdir(folder) if exists(folder) else []
        others = [name for name in names if not _OURS.fullmatch(name)]
        if others and not exists(folder / PLAN):  # another process may just have written it
            raise UserError(
                f"--output={folder} holds other files ({sorted(others)[0]}): name a new folder"
            )
        shards.write_plan(folder, wanted)
    plan = shards.read_plan(folder)
    check_plan(folder, plan, wanted if given else wanted._replace(shard_images=plan.shard_images))
    return plan


def check_plan(folder: Path, plan: Plan, wanted: Plan) -> None:
    """Check that a folder is of this model and this list.

    Raises: UserError for the first difference.
    """
    if plan.fingerprint != wanted.fingerprint or plan.dim != wanted.dim:
        raise UserError(
            f"--output={folder} was begun with another model ({plan.fingerprint[:8]}, this one is"
            f" {wanted.fingerprint[:8]}): name a new folder"
        )
    if (plan.images, plan.list) != (wanted.images, wanted.list):
        raise UserError(
            f"--output={folder} was begun with another list of images (of {plan.images:,}, this"
            f" one has {wanted.images:,}): give the same list, or name a new folder"
        )
    if plan.skip_unreadable != wanted.skip_unreadable:
        word = "with" if plan.skip_unreadable else "without"
        raise UserError(
            f"--output={folder} was begun {word} --skip_unreadable: continue in the same way"
        )
    if plan.shard_images != wanted.shard_images:
        raise UserError(
            f"--output={folder} has shards of {plan.shard_images:,} images: leave --shard_images"
            " out, or name a new folder"
        )


def check_seen(folder: Path, plan: Plan) -> None:
    """Check that this process sees the folder in which the first one has written the plan.

    Raises: UserError if it does not.
    """
    if not exists(folder / PLAN) or shards.read_plan(folder) != plan:
        raise UserError(
            f"--output={folder} is another folder here than in process 0: name one on a disk that"
            " all hosts share"
        )


def find_missing(folder: Path, plan: Plan) -> list[int]:
    """Return the numbers of the missing shards; damaged ones get another name, and are missing."""
    missing, found = [], shards.on_disk(folder)
    for number in range(plan.shards):
        if number in found:
            try:
                shards.read_shard(folder, plan, number)
                continue
            except UserError as error:
                name = shards.name_of(number)
                kept = folder / f"{name}.damaged"
                (folder / name).replace(kept)
                line = f"warning: {error}: it is embedded again now, and kept as '{kept.name}'"
                print(printable(line), file=sys.stderr)
        missing.append(number)
    return missing
