"""Chunks that some group has yet to meet, kept on the devices."""

from typing import Any

import jax

from batnet_jax.retrieval.streaming.device_map import replicate

# The cache's share of each device: bytes on a CPU, a fraction of the memory of other devices.
_CPU_BYTES = 2**30
_MEMORY_SHARE = 0.5


class ChunkCache:
    """Chunks distributed over the devices, as many as fit."""

    def __init__(self) -> None:
        self._free = {device: _capacity(device) for device in jax.local_devices()}
        self._chunks: dict[int, tuple[Any, Any]] = {}

    def numbers(self) -> list[int]:
        """Return the numbers of the cached chunks, ascending."""
        return sorted(self._chunks)

    def put(self, number: int, chunk: Any) -> None:
        """Keep a chunk on the device with the most free memory, if it fits there."""
        device = max(self._free, key=lambda d: self._free[d])
        if self._free[device] >= _bytes(chunk):
            self._free[device] -= _bytes(chunk)
            self._chunks[number] = device, jax.device_put(chunk, device)

    def get(self, number: int) -> Any:
        """Return a cached chunk, copied to every device."""
        return replicate(self._chunks[number][1])

    def keep_only(self, numbers: set[int]) -> None:
        """Drop all chunks except `numbers`."""
        for number in set(self._chunks) - numbers:
            device, chunk = self._chunks.pop(number)
            self._free[device] += _bytes(chunk)


def _capacity(device: Any) -> float:
    """Return the bytes that cached chunks may use on a device."""
    stats = None if device.platform == "cpu" else device.memory_stats()
    return _MEMORY_SHARE * stats["bytes_limit"] if stats else _CPU_BYTES


def _bytes(chunk: Any) -> int:
    return sum(array.nbytes for array in jax.tree.leaves(chunk))
