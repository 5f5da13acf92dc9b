"""The processes of a run on several hosts: joining, agreeing, sharing what one of them has read.

All is JAX's: `jax.distributed` and its collectives. Process 0, the lead, alone touches the workdir.
But for `join`, each function must be called by all processes, in the same order; in a run of one
process each just calls what it is given.
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
from orbax.checkpoint import multihost

from batnet_jax.errors import RunFailure, UserError

T = TypeVar("T")

PATIENCE = 24 * 3600  # seconds to wait for one that prepares data; a dead one is noticed before
FAREWELL = 10  # seconds to wait for others that end too
HEARTBEAT = 100  # seconds after which a silent process counts as dead: JAX's own choice

_numbers = itertools.count()


def join() -> None:
    """With BATNET_DISTRIBUTED=1, joins the processes of a Cloud TPU slice or a Slurm job.

    Elsewhere BATNET_COORDINATOR (host:port), BATNET_NUM_PROCESSES and BATNET_PROCESS_ID say who
    belongs together; BATNET_HEARTBEAT is in seconds. Only the lead prints from then on, but for
    errors.

    Raises: UserError if the variables make no sense, or the processes do not find each other.
    """
    if os.environ.get("BATNET_DISTRIBUTED") != "1":
        return
    heartbeat = _number("HEARTBEAT", 1)
    try:
        jax.distributed.initialize(
            os.environ.get("BATNET_COORDINATOR"),
            _number("NUM_PROCESSES", 1),
            _number("PROCESS_ID", 0),
            heartbeat_timeout_seconds=HEARTBEAT if heartbeat is None else heartbeat,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes cannot join ({_first_line(error)}): start all of them with the same"
            " BATNET_COORDINATOR and BATNET_NUM_PROCESSES, and a BATNET_PROCESS_ID of its own each"
        ) from error
    if jax.device_count() != jax.local_device_count() * jax.process_count():
        raise UserError(
            f"process {jax.process_index()} has {jax.local_device_count()} of the "
            f"{jax.device_count()} devices of {jax.process_count()} processes: give all as many"
        )
    if not is_lead():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # JAX may abort a process that has lost another


def _number(name: str, least: int) -> int | None:
    """A whole number of the environment; None if it is not set.

    Raises: UserError if it is something else.
    """
    text = os.environ.get(f"BATNET_{name}")
    if text is None:
        return None
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"BATNET_{name}={text!r} is no whole number from {least} on: give one")
    return int(text)


def alone() -> bool:
    """Whether the run has a single process."""
    return jax.process_count() == 1


def is_lead() -> bool:
    """Whether this is the process that reads and writes the workdir, and prints."""
    return jax.process_index() == 0


def by_lead(make: Callable[[], T]) -> T:
    """What `make` returns in the lead, which alone calls it; it travels pickled.

    Raises: UserError or RunFailure in all processes, where `make` does.
    """
    if alone():
        return make()
    outcome = pickle.dumps(_attempt(make) if is_lead() else None)
    _wait()
    # As bytes: a sum of floats with zeros, which a broadcast is, would turn -0 to 0.
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(outcome))))
    text = np.frombuffer(outcome[:size].ljust(size), np.uint8)
    value, problem = pickle.loads(multihost_utils.broadcast_one_to_all(text).tobytes())
    if problem is not None:
        raise problem
    return value


def by_all(make: Callable[[], T]) -> T:
    """What `make` returns here, once it has returned in all processes.

    Raises: UserError or RunFailure in all processes, where `make` does in one.
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
    """`by_all`, but the others begin when the lead has finished: they find what it has prepared."""
    made: list[T] = []
    by_lead(lambda: made.append(make()))
    return by_all(lambda: made[0] if made else make())


def check_same(what: str, value: str) -> None:
    """Refuses processes that differ.

    Args:
      what: for the message.
      value: must be the same in all.

    Raises: UserError in all processes.
    """
    if alone():
        return
    found = _gather(hashlib.sha256(value.encode()).digest())
    for number, other in enumerate(found):
        if other != found[0]:
            raise UserError(f"process {number} has other {what} than process 0: give all the same")


def leave(status: int) -> None:
    """Ends the process if the others will not end with it, for JAX's own end waits for them.

    The lead goes last, as JAX aborts the others when it has gone.
    """
    if status == 0 or not jax.distributed.is_initialized() or alone():
        return
    sys.stderr.flush()
    with contextlib.suppress(Exception):
        _wait(FAREWELL)
        return
    if is_lead():
        time.sleep(2)
    os._exit(status)


def is_lost(error: Exception) -> bool:
    """Whether an error says that another process cannot be reached."""
    words = ("gloo", "nccl", "unavailable", "deadline_exceeded", "barrier", "connection")
    text = str(error).lower()
    known = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
    return known and not alone() and any(word in text for word in words)


def describe_loss(error: Exception) -> str:
    """A line for people."""
    return (
        f"process {jax.process_index()} has lost another one ({_first_line(error)}): see the "
        "message of that one; the same command, started again in all of them, resumes"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _attempt(make: Callable[[], T]) -> tuple[T, None] | tuple[None, UserError | RunFailure]:
    """Its result, or what it told the user."""
    try:
        return make(), None
    except UserError as error:
        return None, UserError(str(error))
    except RunFailure as error:
        return None, RunFailure(str(error))


def _wait(seconds: int = PATIENCE) -> None:
    """Waits for all processes, in a way that has no timeout but this."""
    everyone = set(range(jax.process_count()))
    name = f"batnet_{next(_numbers)}"
    multihost.sync_global_processes(name, timeout=seconds, processes=everyone)


def _gather(text: bytes) -> list[bytes]:
    """What each process gives."""
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(text))))
    padded = np.frombuffer(text.ljust(max(1, sizes.max())), np.uint8)
    rows: Any = np.asarray(multihost_utils.process_allgather(padded))
    return [row.tobytes()[:size] for row, size in zip(rows, sizes.tolist(), strict=True)]
