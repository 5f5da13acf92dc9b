"""The memory, operations and cycles of a program that is compiled for a TPU."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from batnet_jax.runtime.tpu_chips import Chip

_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_CODE = re.compile(r" ([a-z][\w\-]*)\(")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_NAME = re.compile(r'op_name="([^"]*)"')
_OVERFLOW = (
    re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm"),
    re.compile(r"required .*\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"),
)


class Needs(NamedTuple):
    """The needs of a compiled program on a chip.

    Attributes:
      state: bytes of its arguments and results; results that overwrite arguments count once.
      temporaries: bytes that it takes while it runs.
      code: bytes of the program.
      flops: floating-point operations.
      moved: bytes that its instructions read and write.
      cycles: the compiler's estimate for the instructions that have one; a loop's count once for
        each round. Collectives and some gathers have none.
    """

    state: int
    temporaries: int
    code: int
    flops: float
    moved: float
    cycles: int

    @property
    def memory(self) -> int:
        """Bytes on a chip at the peak."""
        return self.state + self.temporaries + self.code

    def seconds(self, chip: Chip) -> tuple[float, float]:
        """Return the range in which the program's time may lie, if collectives take none.

        It goes from the lesser of two figures to twice the greater: the roofline (all operations at
        the chip's full rate, or all bytes at the memory's full rate) and the estimated cycles.
        """
        roofline = max(self.flops / chip.flops, self.moved / chip.bandwidth)
        estimate = self.cycles / chip.hertz
        return min(roofline, estimate), 2 * max(roofline, estimate)


def needs_of(compiled: Any) -> Needs:
    """Read the needs of a compiled program."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return Needs(
        state=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=cost.get("flops", 0.0),
        moved=cost.get("bytes accessed", 0.0),
        cycles=sum(cycles for _, cycles in instructions(compiled.as_text())),
    )


def overflow_of(error: Exception) -> tuple[float, float] | None:
    """Return (bytes needed, bytes available) if a program does not fit a chip; else None."""
    found = next(filter(None, (one.search(str(error)) for one in _OVERFLOW)), None)
    if not found:
        return None
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    return float(found[1]) * units[found[2]], float(found[3]) * units[found[4]]


def instructions(text: str) -> Iterator[tuple[str, int]]:
    """Yield (name from JAX, cycles) of each instruction whose cycles the compiler has estimated.

    Args:
      text: a compiled program (HLO). The instructions of a loop come once, with the cycles of all
        rounds. A loop whose number of rounds is unknown counts as one round.
    """
    lines, entry = computations(text)

    def walk(name: str, times: int) -> Iterator[tuple[str, int]]:
        for line in lines.get(name, ()):
            code = _CODE.search(line)
            kind = code[1] if code else ""
            if kind == "while":
                trips = _TRIPS.search(line)
                yield from walk(called_by(line, "body"), times * int(trips[1] if trips else 1))
            elif kind == "call":
                yield from walk(called_by(line, "to_apply"), times)
            elif kind == "conditional":
                branches = re.findall(r"%([\w.\-]+)", _branches(line))
                options = [list(walk(branch, times)) for branch in branches]
                yield from max(options, key=lambda o: sum(c for _, c in o), default=[])
            elif found := _CYCLES.search(line):
                own = _NAME.search(line)
                yield own[1] if own else "", times * int(found[1])

    yield from walk(entry, 1)


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Return the lines of each computation of a program, and the name of the first to run."""
    lines: dict[str, list[str]] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            current = lines[head[2]] = []
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None:
            current.append(line.strip())
    return lines, entry


def called_by(line: str, attribute: str) -> str:
    """Return the name of the computation that an instruction calls; empty if it calls none."""
    found = re.search(attribute + r"=%?([\w.\-]+)", line)
    return found[1] if found else ""


def _branches(line: str) -> str:
    found = re.search(r"branch_computations=\{([^}]*)\}", line)
    if found:
        return found[1]
    return " ".join(re.findall(r"(?:true|false)_computation=(%[\w.\-]+)", line))
