"""A gallery in shards: a folder of Parquet files, one for each piece of a list of images.

`_plan.json` is written first. It names the model, the list and the number of images in a shard. A
shard is a piece of the list, so any number of processes can share the work and continue it.
`part-00000.parquet` and so on appear when they are complete. `_manifest.json` is written last and
names all shards with their checksums: without it the gallery is not whole. Spark and pyarrow leave
out files whose names begin with `_`.
"""

import json
import os
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from batnet_jax.errors import UserError, one_line
from batnet_jax.evaluation.parquet.facts import Facts, to_text
from batnet_jax.evaluation.parquet.file import open_file
from batnet_jax.runtime.atomic_write import write_atomically
from batnet_jax.runtime.paths import is_folder
from batnet_jax.runtime.read_files import open_regular, read_bytes, reason

PLAN, MANIFEST, LOCK = "_plan.json", "_manifest.json", "_lock"
_FORMAT = "batnet_jax shards"
_VERSION = 1
LEAST_IMAGES, MOST_IMAGES = 1024, 65_536
"""Images of a shard, unless the user says otherwise."""
_SHARDS = 256
"""Shards of a gallery that is neither small nor large."""
PART = re.compile(r"part-([0-9]{5,9})\.parquet")
"""The names of shards."""


class Plan(NamedTuple):
    """The plan of a folder: the model, the images, and the size of the shards."""

    fingerprint: str
    """Of the model."""
    dim: int
    """d."""
    images: int
    """Of the list."""
    list: str
    """A digest of the list: of the paths and of the columns of a table."""
    shard_images: int
    """Images in each shard; the last one may have fewer."""
    skip_unreadable: bool
    """Whether images that cannot be read are left out."""

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.images // self.shard_images)

    def rows(self, number: int) -> slice:
        """Return the part of the list that a shard holds."""
        start = number * self.shard_images
        return slice(start, min(start + self.shard_images, self.images))

    def size(self, number: int) -> int:
        """Return how many images a shard holds."""
        rows = self.rows(number)
        return rows.stop - rows.start

    def mark(self, number: int) -> dict[str, Any]:
        """Return the facts about the gallery that a shard's file repeats."""
        return {"list": self.list, "number": number, "images": self.images}


class Shard(NamedTuple):
    """A shard in the manifest."""

    file: str
    """Its name."""
    rows: int
    bytes: int
    """The size of the file."""
    crc32: str
    """The checksum of the file's metadata, which holds the checksums of the features."""


def name_of(number: int) -> str:
    """Return the name of a shard's file; names are in the order of the shards up to 99,999."""
    return f"part-{number:05d}.parquet"


def is_shard_folder(path: Path) -> bool:
    """Return whether a path is a folder of shards, whole or not."""
    return is_folder(path) and any(os.path.lexists(path / name) for name in (PLAN, MANIFEST))


def choose_shard_images(images: int, batch: int) -> int:
    """Choose the number of images in a shard: whole batches, and some hundred shards if possible.

    Args:
      images: of the list.
      batch: images of a step.
    """
    wanted = min(max(-(-images // _SHARDS), LEAST_IMAGES), MOST_IMAGES)
    return -(-wanted // batch) * batch


def on_disk(folder: Path) -> set[int]:
    """Return the numbers of the shards that exist.

    Raises: OSError if the folder cannot be read.
    """
    found = (PART.fullmatch(name) for name in os.listdir(folder))
    return {int(match[1]) for match in found if match and match[0] == name_of(int(match[1]))}


def read_shard(folder: Path, plan: Plan, number: int) -> Shard:
    """Return a shard's row of the manifest, after checking the metadata of its file.

    Raises: UserError if it is damaged, or of another gallery.
    """
    path = folder / name_of(number)
    try:
        with open(open_regular(path), "rb") as file:
            facts, size = open_file(path, file).facts, os.fstat(file.fileno()).st_size
    except UserError:
        raise
    except Exception as error:  # pyarrow raises many types
        why = reason(error) if isinstance(error, OSError) else one_line(error)
        raise UserError(f"'{path}' cannot be read ({why}): remove it, and embed again") from error
    if facts is None or facts.shard != plan.mark(number) or facts.fingerprint != plan.fingerprint:
        raise UserError(f"'{path}' is not a shard of this gallery: remove it, and embed again")
    return Shard(path.name, facts.rows, size, crc_of(facts))


def crc_of(facts: Facts) -> str:
    """Return the CRC-32 of the metadata of a shard's file, 8 hexadecimal digits."""
    return f"{zlib.crc32(to_text(facts).encode()):08x}"


def write_plan(folder: Path, plan: Plan) -> None:
    """Write the plan of a gallery.

    Raises: OSError if it cannot be written.
    """
    write_atomically(folder / PLAN, _to_text(plan._asdict()))


def write_manifest(folder: Path, plan: Plan, shards: list[Shard]) -> None:
    """Write the manifest, which makes the gallery whole.

    Raises: OSError if it cannot be written.
    """
    rows = {"rows": sum(shard.rows for shard in shards)}
    listed = {"shards": [shard._asdict() for shard in shards]}
    write_atomically(folder / MANIFEST, _to_text({**plan._asdict(), **rows, **listed}))


def read_plan(folder: Path) -> Plan:
    """Read the plan of a gallery.

    Raises: UserError if it is missing, damaged, or of a later version.
    """
    found = _read(folder / PLAN)
    try:
        return _to_plan(found)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder / PLAN) from error


def read_manifest(folder: Path) -> tuple[Plan, list[Shard]]:
    """Read the manifest of a gallery.

    Raises: UserError if the gallery is not whole, or the manifest is damaged or of a later version.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        plan, done = read_plan(folder), len(on_disk(folder))
        raise UserError(
            f"'{folder}' is not whole: {done:,} of {plan.shards:,} shards exist; the command"
            " that began it continues"
        )
    found = _read(path)
    try:
        plan = _to_plan(found)
        shards = [Shard(**one) for one in found["shards"]]
        named = [shard.file for shard in shards]
        if named != [name_of(number) for number in range(plan.shards)]:
            raise ValueError("other files")
        if found["rows"] != sum(shard.rows for shard in shards):
            raise ValueError("other rows")
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path) from error
    return plan, shards


def _to_text(content: dict[str, Any]) -> str:
    """Return JSON with its own checksum."""
    whole = {"format": _FORMAT, "version": _VERSION, **content}
    return json.dumps({**whole, "crc32": _crc(whole)}, indent=1) + "\n"


def _crc(content: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def _read(path: Path) -> dict[str, Any]:
    """Read JSON, and compare it with its own checksum.

    Raises: UserError if the file cannot be read, is damaged, or of a later version.
    """
    try:
        found = json.loads(read_bytes(path).decode())
        if found.pop("crc32") != _crc(found) or found["format"] != _FORMAT:
            raise ValueError("another checksum")
        version = found["version"]
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({reason(error)}): restore it") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path) from error
    if version != _VERSION:
        raise UserError(f"'{path}' is of a later version: install a later version")
    return found


def _to_plan(found: dict[str, Any]) -> Plan:
    plan = Plan(**{name: found[name] for name in Plan._fields})
    if plan.images < 1 or plan.shard_images < 1:
        raise ValueError("no images")
    return plan


def _damaged(path: Path) -> UserError:
    return UserError(f"'{path}' is damaged: restore it, or embed into a new folder")
