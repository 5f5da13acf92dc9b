"""Cloud TPU chips, described to the compiler so that programs can be compiled without a TPU.

libtpu, which the extra `tpu` installs, compiles for chips that it only knows by description. The
figures of a chip are from Google's pages (docs.cloud.google.com/tpu/docs/v5e and so on).
"""

import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from batnet_jax.errors import UserError


class Chip(NamedTuple):
    """A generation of chips.

    Attributes:
      topology: libtpu's name of the generation.
      sides: of a slice: 2 in a plane, 3 in a cuboid.
      cores: per chip. A program runs on both cores of a chip together ("megacore").
      memory: bytes of the chip's memory (HBM).
      flops: floating-point operations a second in products of bfloat16, at most.
      bandwidth: bytes a second that the memory delivers, at most.
      flops_per_cycle: of its matrix units: 2 x rows x columns x units x cores. For v6e it is the
        smallest power of two that libtpu's own estimate of a large product does not exceed.
    """

    topology: str
    sides: int
    cores: int
    memory: float
    flops: float
    bandwidth: float
    flops_per_cycle: int

    @property
    def hertz(self) -> float:
        """The clock's cycles a second, as the other figures imply."""
        return self.flops / self.flops_per_cycle


CHIPS = {
    "v4": Chip("v4", 3, 2, 32 * 2**30, 275e12, 1228e9, 2 * 128**2 * 4 * 2),
    "v5e": Chip("v5e", 2, 1, 16 * 2**30, 197e12, 819e9, 2 * 128**2 * 4),
    "v5p": Chip("v5", 3, 2, 95 * 2**30, 459e12, 2765e9, 2 * 128**2 * 4 * 2),
    "v6e": Chip("v6e", 2, 1, 32 * 2**30, 918e12, 1638e9, 2 * 256**2 * 4),
}
PREFIXES = {"v4": "v4", "v5litepod": "v5e", "v5p": "v5p", "v6e": "v6e"}
"""The chip by the first part of a slice's type."""

_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # ask no server that only Google's machines have
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # the host that libtpu believes to be on
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # others may compile, too
}


class Slice(NamedTuple):
    """Chips that are rented together."""

    chip: str
    count: int

    @property
    def host_count(self) -> int:
        """The number of machines with chips of the slice, four chips a machine.

        The exception is eight chips of v5e or v6e, which are on one machine.
        """
        alone = CHIPS[self.chip].sides == 2 and self.count == 8
        return 1 if alone else -(-self.count // 4)


def parse_slice(text: str) -> Slice:
    """Return the chips of a slice's type, such as v4-8 (4 chips) or v5litepod-8 (8 chips).

    Raises: UserError for a type that is unknown here, or whose chips form no usual slice.
    """
    match = re.fullmatch(r"([a-z0-9]+)-(\d{1,5})", text)
    if not match or match[1] not in PREFIXES:
        raise UserError(
            f"the slice '{text}' is not known: give {' or '.join(f'{p}-N' for p in PREFIXES)}"
        )
    chip, number = PREFIXES[match[1]], int(match[2])
    cores = CHIPS[chip].cores  # the numbers of v4 and v5p count cores
    if number % cores or number // cores not in _counts():
        allowed = ", ".join(f"{match[1]}-{cores * count}" for count in _counts())
        raise UserError(f"the slice '{text}' is not a usual one: give one of {allowed}")
    return Slice(chip, number // cores)


def _counts() -> list[int]:
    return [1, *(2**k for k in range(2, 9))]


def shape_of(chip: str, count: int) -> tuple[int, ...]:
    """Return the sides of a slice with `count` chips, a power of two other than 2.

    The sides are as equal as can be, the longest last; but 4 chips of three sides are 2x2x1.
    """
    sides = [1] * CHIPS[chip].sides
    while (rest := count // _product(sides)) > 1:
        assert rest % 2 == 0, count
        sides[sides.index(min(sides))] *= 2
    return tuple(sides) if count == 4 else tuple(sorted(sides))


def _product(sides: Sequence[int]) -> int:
    product = 1
    for side in sides:
        product *= side
    return product


def has_compiler() -> bool:
    """Return whether libtpu is installed."""
    return importlib.util.find_spec("libtpu") is not None


def describe_devices(chip: str, count: int) -> tuple[Any, ...]:
    """Return devices that programs can be compiled for, but not run on.

    Must be called before JAX looks for a TPU in this process, if JAX may look for one at all
    (JAX_PLATFORMS=cpu keeps JAX from it).

    Args:
      chip: one of `CHIPS`.
      count: the number of chips; a chip is one device.

    Raises: UserError without libtpu.
    """
    if not has_compiler():
        raise UserError("compiling for TPUs needs libtpu: pip install 'batnet-jax[tpu]'")
    from jax.experimental import topologies

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    found, options = CHIPS[chip], {}
    if found.cores > 1:
        options["chip_config_name"] = "megacore"
    if count == 1:  # libtpu takes four chips a host for granted
        options["chips_per_host_bounds"] = (1, 1, 1)
    shape = "x".join(map(str, shape_of(chip, count)))
    topology = topologies.get_topology_desc(f"{found.topology}:{shape}", platform="tpu", **options)
    return tuple(topology.devices)
