"""The mode `plan`: estimates a training run on a TPU slice, by compiling it without a TPU."""

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections

from batnet_jax.data.run_data import open_run_data
from batnet_jax.errors import RunFailure, UserError
from batnet_jax.modes.dry_run import format_bytes
from batnet_jax.runtime.tpu_chips import CHIPS, Slice, describe_devices, parse_slice
from batnet_jax.runtime.tpu_program import Needs, needs_of, overflow_of
from batnet_jax.training.ahead import lower_embedding, lower_step
from batnet_jax.training.run_length import RunLength, batch_size, plan_run


class Program(NamedTuple):
    """A compiled program: its needs, and the seconds that compiling took."""

    needs: Needs
    seconds: float


def run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    slice: str,
    training_images: int | None = None,
    training_people: int | None = None,
    price: str | None = None,
) -> None:
    """Compile the step and the embedding for a slice; print their needs and the cost of a run.

    Args:
      config: of the run.
      workdir: not used; no file is written.
      slice: the type of the slice, such as v4-8.
      training_images: the number of training images; None = read from the data set.
      training_people: the number of people in training; None = read from the data set.
      price: the price of a chip for an hour, in any currency.

    Raises: UserError for a slice that is unknown, a batch that does not divide among its chips, or
      a missing libtpu; RunFailure if the run does not fit.
    """
    where = parse_slice(slice)
    check_batch(config, where, slice)
    rate = parse_price(price)
    length, people = measure(config, training_images, training_people)
    devices = describe_devices(where.chip, where.count)
    jax.config.update("jax_enable_compilation_cache", False)  # no such program can be read back
    step = compile_program(
        "a training step",
        lambda: lower_step(
            config, devices, num_identities=people, steps_per_epoch=length.steps_per_epoch
        ),
    )
    embedding = compile_program(
        "the embedding", lambda: lower_embedding(config, devices, num_identities=people)
    )
    print(describe_plan(config, slice, where, length, step, embedding, rate))


def check_batch(config: ml_collections.ConfigDict, where: Slice, slice: str) -> None:
    """Raise UserError for a batch that does not divide among the chips of a slice."""
    size, parts = batch_size(config), config.batch.accumulate
    if size % (where.count * parts):
        raise UserError(
            f"config.batch: {size} images do not divide among the {where.count} chips of "
            f"--slice={slice}" + (f" in {parts} parts" if parts > 1 else "")
        )


def parse_price(text: str | None) -> float | None:
    """Return the price of a chip for an hour; None if it is not given.

    Raises: UserError for a text that is not a price.
    """
    if text is None:
        return None
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < math.inf:
        raise UserError(f"--price={text}: give a number, the price of a chip for an hour, as 1.20")
    return price


def measure(
    config: ml_collections.ConfigDict, images: int | None, people: int | None
) -> tuple[RunLength, int]:
    """Return the length of the run, and the people in training."""
    if images is None and people is None:
        train = open_run_data(config, write=False).train
        return plan_run(config, train.labels), len(train.identities)
    if images is None or people is None:
        raise UserError(
            "give both --training_images and --training_people, or neither to count those of the "
            "data set"
        )
    epoch = max(1, images // batch_size(config))  # an epoch drops each person's remainder
    return RunLength(epoch, config.steps or epoch * config.num_epochs), people


def compile_program(name: str, lower: Any) -> Program:
    """Compile a program and read its needs.

    Raises: RunFailure if it does not fit a chip's memory.
    """
    start = time.perf_counter()
    try:
        compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        overflow = overflow_of(error)
        if overflow is None:
            raise
        needed, there = map(format_bytes, overflow)
        raise RunFailure(
            f"{name} does not fit: it needs {needed} of a chip that has {there}: lower "
            "config.batch.identities, raise config.batch.accumulate, or take more chips"
        ) from error
    return Program(needs_of(compiled), time.perf_counter() - start)


def describe_plan(
    config: ml_collections.ConfigDict,
    slice: str,
    where: Slice,
    length: RunLength,
    step: Program,
    embedding: Program,
    rate: float | None,
) -> str:
    """Return the plan as lines."""
    chip, size = CHIPS[where.chip], batch_size(config)
    low, high = step.needs.seconds(chip)
    hours = [length.total * seconds / 3600 for seconds in (low, high)]
    lines = {
        "slice": f"{slice}: {where.count} x {where.chip}, hosts: {where.host_count}",
        "step": f"{size} images, {size // where.count} a chip, {config.model.dtype}; "
        f"{_describe(step, chip.memory)}",
        "embedding": f"{config.eval.batch} images; {_describe(embedding, chip.memory)}",
        "time": f"{1e3 * low:.3g} to {1e3 * high:.3g} ms a step, estimated, not measured; "
        "collectives are not counted",
        "run": f"{length.total:,} steps: {_range(*hours)} hours; start, data and evaluation "
        "come on top",
    }
    if rate is not None:
        costs = _range(*(where.count * rate * h for h in hours))
        lines["cost"] = f"{costs}, at {rate:g} a chip and hour: {where.count} chips"
    rows = [f"  {name:9} {text}" for name, text in lines.items()]
    return "\n".join(["compiled, not run:", *rows])


def _describe(program: Program, memory: float) -> str:
    needs = program.needs
    return (
        f"{format_bytes(needs.memory)} of a chip's {format_bytes(memory)}, fits: "
        f"{format_bytes(needs.state)} arguments and results, {format_bytes(needs.temporaries)} "
        f"temporaries, {format_bytes(needs.code)} program; compiled in {program.seconds:.0f} s"
    )


def _range(low: float, high: float) -> str:
    return f"{low:.2g} to {high:.2g}" if high < 100 else f"{low:,.0f} to {high:,.0f}"
