"""The mode `embed` into a folder of shards, which any number of processes can share and resume."""

import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from batnet_jax.data.loading.described_images import DescribedImages
from batnet_jax.errors import UserError, printable
from batnet_jax.evaluation.parquet.write import check_names, write_parquet
from batnet_jax.inference import shards
from batnet_jax.inference.claims import Claims
from batnet_jax.inference.model import Model
from batnet_jax.inference.save_index import BAR_DELAY
from batnet_jax.inference.shards import MANIFEST, Plan
from batnet_jax.modes.flags import report_write_errors
from batnet_jax.modes.shard_folder import begin, check_seen, digest_of_images, find_missing
from batnet_jax.runtime import processes
from batnet_jax.runtime.atomic_write import remove_orphans
from batnet_jax.runtime.paths import exists
from batnet_jax.runtime.preemption import is_agreed
from batnet_jax.runtime.progress import Bar, progress_bar
from batnet_jax.runtime.signals import Terminated

LOOK_SECONDS = 5.0
"""Seconds between two looks at what other processes have written."""
_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


class Readable(Protocol):
    """Names the images that cannot be read on stderr, and returns the numbers of the others."""

    def __call__(self, images: DescribedImages, *, allow_none: bool) -> list[int]:
        """Decode all images; unless `allow_none`, one must be readable."""
        ...


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """Return I and N of --shard=I/N.

    Raises: UserError if the text is something else, or I is not below N.
    """
    if text is None:
        return None
    match = _SHARD.fullmatch(text)
    if match is None or int(match[1]) >= int(match[2]):
        raise UserError(f"--shard={text} must be I/N, where I counts the N processes from 0: 0/4")
    return int(match[1]), int(match[2])


@dataclass
class Job:
    """The work of a process.

    Attributes:
      model: embeds on the devices of this process.
      images: of all shards.
      folder: of the shards.
      plan: of the folder.
      readable: None to end at an image that cannot be read.
      bar: counts the images of all processes.
    """

    model: Model
    images: DescribedImages
    folder: Path
    plan: Plan
    readable: Readable | None
    bar: Bar
    done: int = 0
    """Images that this process has embedded."""
    _looked: float = field(default_factory=time.monotonic)

    def embed_shard(self, number: int) -> int:
        """Embed a shard and write it; return the number of steps.

        Raises: UserError if an image cannot be read; Terminated if the processes end; OSError if
          the shard cannot be written.
        """
        rows = self.plan.rows(number)
        images = self.images.take(range(rows.start, rows.stop))
        if self.readable is not None:
            images = images.take(self.readable(images, allow_none=True))
        steps = 0

        def parts() -> Iterator[np.ndarray]:
            nonlocal steps
            embedded = 0
            for part in self.model.embed_parts(images) if len(images) else ():
                yield part
                steps, embedded = steps + 1, embedded + len(part)
                self.done += len(part)
                self.look(embedded)
                end_if_agreed()

        write_parquet(
            self.folder / shards.name_of(number),
            parts(),
            shape=(len(images), self.plan.dim),
            paths=images.filenames,
            fingerprint=self.plan.fingerprint,
            columns=lambda: {**images.columns, "digest": images.digests},
            shard=self.plan.mark(number),
        )
        return steps

    def look(self, embedded: int, *, at_once: bool = False) -> None:
        """Move the bar to the images on the disk and in this process's unfinished shard."""
        if at_once or time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            whole = sum(map(self.plan.size, shards.on_disk(self.folder)))
            self.bar.update(max(0, whole + embedded - self.bar.n))


def run_shards(
    model: Model,
    images: DescribedImages,
    *,
    output: Path,
    shard: tuple[int, int] | None,
    shard_images: int | None,
    readable: Readable | None,
) -> None:
    """Write the missing shards of a gallery, then the manifest if no shard is missing.

    Of several processes under `jax.distributed`, or with --shard=I/N, each embeds every N-th of the
    shards. A process of --shard that is done helps the others, where the file system has locks.

    Args:
      model: see `Job`.
      images: see `Job`.
      output: the folder.
      shard: I and N; None for one process, or for the processes of `jax.distributed`.
      shard_images: images of a shard; None for the plan's, or to choose.
      readable: see `Job`.

    Raises: UserError if the folder holds something else, or an image cannot be read.
    """
    if shard is not None and not processes.alone():
        raise UserError("--shard is for processes that do not know each other: leave it out")
    processes.by_all(lambda: check_names(images.filenames, images.columns))
    wanted = Plan(
        model.fingerprint,
        model.dim,
        len(images),
        digest_of_images(images),
        shard_images or shards.choose_shard_images(len(images), model.config.eval.batch),
        readable is not None,
    )
    processes.check_same("images", f"{output} {wanted}")
    with report_write_errors("output", output, folder=True):
        plan = processes.by_lead(lambda: begin(output, wanted, given=shard_images is not None))
        processes.by_all(lambda: check_seen(output, plan))
        if exists(output / MANIFEST):
            processes.by_lead(lambda: say_whole(output))
            return
        missing = processes.by_lead(lambda: find_missing(output, plan))
        print(printable(describe(model, plan, output, len(missing))), file=sys.stderr)
        start = time.perf_counter()
        before = plan.images - sum(map(plan.size, missing))
        with progress_bar(plan.images, description="embed", initial=before, delay=BAR_DELAY) as bar:
            job = Job(model, images, output, plan, readable, bar)
            if processes.alone():
                embed_missing(job, missing, *(shard or (0, 1)))
            else:
                embed_turns(job, missing)
            processes.by_all(lambda: None)  # all have written theirs
            job.look(0, at_once=True)
        seconds = time.perf_counter() - start
        processes.by_lead(lambda: finish(job, seconds))


def embed_missing(job: Job, missing: Sequence[int], index: int, number: int) -> None:
    """Embed every `number`-th shard from `index` on, then shards that nobody has begun.

    Raises: see `Job.embed_shard`.
    """
    own = [shard for shard in missing if shard % number == index]
    others = [shard for shard in missing if shard % number != index]
    claims = Claims(job.folder / shards.LOCK)
    try:
        for shard in (*own, *others):
            with claims.claim(shard) as claim:
                is_free = claim == "ours" or (claim == "unknown" and shard % number == index)
                if is_free and not exists(job.folder / shards.name_of(shard)):
                    job.embed_shard(shard)
                    job.look(0, at_once=True)
    finally:
        claims.close()


def embed_turns(job: Job, missing: Sequence[int]) -> None:
    """Embed a share of the shards under `jax.distributed`.

    All processes ask equally often whether one has received SIGTERM, as `is_agreed` needs: once a
    step, in as many steps as the largest shard has.

    Raises: see `Job.embed_shard`.
    """
    index, number = jax.process_index(), jax.process_count()
    most = -(-job.plan.shard_images // job.model.batch)
    own = missing[index::number]
    for turn in range(-(-len(missing) // number)):
        steps = job.embed_shard(own[turn]) if turn < len(own) else 0
        for _ in range(steps, most):
            end_if_agreed()
        job.look(0, at_once=True)


def end_if_agreed() -> None:
    """Raise Terminated if the processes have agreed to end, after SIGTERM to one of them."""
    if is_agreed():
        raise Terminated


def finish(job: Job, seconds: float) -> None:
    """Write the manifest if all shards exist; print the state of the folder.

    Raises: UserError if a shard is damaged; OSError if the manifest cannot be written.
    """
    plan, folder = job.plan, job.folder
    rate = f"{job.done * jax.process_count() / seconds:.1f} images/s"
    there = shards.on_disk(folder)
    if len(there) < plan.shards:
        line = (
            f"written: {len(there):,} of {plan.shards:,} shards of {folder} exist, {rate};"
            " other processes embed the rest, or the same command again"
        )
        print(printable(line))
        return
    rows = [shards.read_shard(folder, plan, number) for number in range(plan.shards)]
    total = sum(row.rows for row in rows)
    if not total:
        raise UserError(f"none of the {plan.images} images can be read: give others")
    shards.write_manifest(folder, plan, rows)
    (folder / shards.LOCK).unlink(missing_ok=True)
    remove_orphans(folder, shards.PART.pattern)
    line = f"written: {folder}, features [{total}, {plan.dim}] in {plan.shards} shards, {rate}"
    print(printable(line))


def say_whole(folder: Path) -> None:
    """Print that a gallery is whole already.

    Raises: UserError if the manifest is damaged.
    """
    plan, rows = shards.read_manifest(folder)
    total = sum(row.rows for row in rows)
    print(printable(f"'{folder}' is whole already: features [{total}, {plan.dim}]"))


def describe(model: Model, plan: Plan, folder: Path, missing: int) -> str:
    """Return a line about the work that begins."""
    there = f"{plan.shards - missing:,} of {plan.shards:,} shards exist"
    return f"{model}: {plan.images:,} images go to '{folder}', {there}"
