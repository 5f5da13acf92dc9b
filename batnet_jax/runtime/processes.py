"""The processes of a run on several hosts: they join, agree, and share the results of one.

`jax.distributed` and its collectives do the work. Only process 0, the lead, reads and writes the
workdir. Apart from `join`, all processes must call each function, in the same order. In a run of a
single process a function only calls its argument.
"""

import contextlib
import hashlib
import io
import itertools
import os
import pickle
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from batnet_jax.errors import RunFailure, UserError, first_line
from batnet_jax.runtime import orbax_calls

T = TypeVar("T")

BARRIER_SECONDS = 24 * 3600  # one process may prepare data; a dead one is noticed by its heartbeat
END_SECONDS = 10  # how long to wait for other processes that end with an error
SIGNAL_STATUS = 128  # shells add a signal's number to it
HEARTBEAT_SECONDS = 100  # a process that is silent for longer counts as dead; JAX's default

_barriers = itertools.count()


def join() -> None:
    """Join the other processes of the run if the environment has BATNET_DISTRIBUTED=1.

    JAX finds the processes of a Cloud TPU slice or a Slurm job. Elsewhere BATNET_COORDINATOR
    (host:port), BATNET_NUM_PROCESSES and BATNET_PROCESS_ID describe them. BATNET_HEARTBEAT is in
    seconds. After this call only the lead prints to stdout.

    Raises: UserError if a variable has no valid value or the processes do not find each other.
    """
    if os.environ.get("BATNET_DISTRIBUTED") != "1":
        return
    heartbeat = _number("HEARTBEAT", 1)
    try:
        jax.distributed.initialize(
            os.environ.get("BATNET_COORDINATOR"),
            _number("NUM_PROCESSES", 1),
            _number("PROCESS_ID", 0),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS if heartbeat is None else heartbeat,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes cannot join ({first_line(error)}): start all of them with the same"
            " BATNET_COORDINATOR and BATNET_NUM_PROCESSES, each with its own BATNET_PROCESS_ID"
        ) from error
    if jax.device_count() != jax.local_device_count() * jax.process_count():
        raise UserError(
            f"process {jax.process_index()} has {jax.local_device_count()} of the "
            f"{jax.device_count()} devices of {jax.process_count()} processes: give each process "
            "the same number"
        )
    if not is_lead():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # JAX may abort without flushing


def _number(name: str, least: int) -> int | None:
    """Return the integer in the variable BATNET_`name`, or None without a value.

    Raises: UserError if the value is not an integer of at least `least`.
    """
    text = os.environ.get(f"BATNET_{name}")
    if text is None:
        return None
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"BATNET_{name}={text!r} is not an integer of at least {least}: give one")
    return int(text)


def alone() -> bool:
    """Return whether the run has a single process."""
    return jax.process_count() == 1


def is_lead() -> bool:
    """Return whether this process reads and writes the workdir, and prints."""
    return jax.process_index() == 0


def by_lead(make: Callable[[], T]) -> T:
    """Call `make` in the lead only; return its result, sent as a pickle, in all processes.

    Raises: UserError or RunFailure in all processes if `make` raises it.
    """
    if alone():
        return make()
    outcome = pickle.dumps(_attempt(make) if is_lead() else None)
    _wait()
    # As bytes: JAX broadcasts by adding zeros, which would turn a float's -0 to 0.
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(outcome))))
    text = np.frombuffer(outcome[:size].ljust(size), np.uint8)
    value, problem = pickle.loads(multihost_utils.broadcast_one_to_all(text).tobytes())
    if problem is not None:
        raise problem
    return value


def by_all(make: Callable[[], T]) -> T:
    """Call `make` in all processes and wait for all of them; return this process's result.

    Raises: UserError or RunFailure in all processes if `make` raises it in one.
    """
    if alone():
        return make()
    value, problem = _attempt(make)
    _wait()
    problems = [pickle.loads(text) for text in _gather(pickle.dumps(problem))]
    if problem is not None:
        raise problem
    for number, other in enumerate(problems):
        if other is not None:
            raise type(other)(f"process {number}: {other}")
    return value  # type: ignore[return-value]


def lead_first(make: Callable[[], T]) -> T:
    """Call `make` in the lead, then in the others, which find the files that the lead prepared.

    Returns: this process's result.

    Raises: UserError or RunFailure in all processes if `make` raises it in one.
    """
    results: list[T] = []
    by_lead(lambda: results.append(make()))
    return by_all(lambda: results[0] if results else make())


def check_same(what: str, value: str) -> None:
    """Check that a value is the same in all processes.

    Args:
      what: name of the value, for the message.
      value: compared by its hash.

    Raises: UserError in all processes if the values differ.
    """
    if alone():
        return
    found = _gather(hashlib.sha256(value.encode()).digest())
    for number, other in enumerate(found):
        if other != found[0]:
            raise UserError(
                f"process {number} and process 0 have different {what}: give all the same"
            )


def leave(status: int) -> None:
    """End this process after an error without waiting for the others, as JAX's shutdown would.

    Does nothing if the run has ended well, or if the others end within `END_SECONDS` too. The lead
    ends last, as JAX aborts the others once the lead is gone. A process without others leaves at
    once if a signal has ended it: Python takes seconds to put JAX away.
    """
    if status > SIGNAL_STATUS and not jax.distributed.is_initialized():
        os._exit(status)
    if status == 0 or not jax.distributed.is_initialized() or alone():
        return
    sys.stderr.flush()
    with contextlib.suppress(Exception):
        _wait(END_SECONDS)
        return
    if is_lead():
        time.sleep(2)
    os._exit(status)


def is_lost(error: Exception) -> bool:
    """Return whether an error means that another process cannot be reached."""
    words = ("gloo", "nccl", "unavailable", "deadline_exceeded", "barrier", "connection")
    text = str(error).lower()
    known = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
    return known and not alone() and any(word in text for word in words)


def describe_loss(error: Exception) -> str:
    """Return the message to the user for an error that `is_lost` recognises."""
    return (
        f"process {jax.process_index()} has lost another one ({first_line(error)}): see the other "
        "one's message; the same command, started again in all processes, resumes"
    )


def _attempt(make: Callable[[], T]) -> tuple[T, None] | tuple[None, UserError | RunFailure]:
    """Call `make`; return its result, or its UserError or RunFailure."""
    try:
        return make(), None
    except UserError as error:
        return None, UserError(str(error))
    except RunFailure as error:
        return None, RunFailure(str(error))


def _wait(seconds: int = BARRIER_SECONDS) -> None:
    """Wait for all processes; unlike JAX's collectives this has no other timeout."""
    orbax_calls.wait_for_processes(f"batnet_{next(_barriers)}", seconds)


def _gather(text: bytes) -> list[bytes]:
    """Return the bytes that each process passes, in the order of the processes."""
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(text))))
    padded = np.frombuffer(text.ljust(max(1, sizes.max())), np.uint8)
    rows: Any = np.asarray(multihost_utils.process_allgather(padded))
    return [row.tobytes()[:size] for row, size in zip(rows, sizes.tolist(), strict=True)]
