"""Chunks of the gallery that come again, kept on the devices meanwhile."""

from typing import Any

import jax

from batnet_jax.retrieval.streaming.device_map import replicate

# What they may take on each device: this on a CPU, else a share of the device's memory.
_CPU_BYTES = 2**30
_SHARE = 0.5


class ChunkCache:
    """Chunks that come again, dealt out over the devices, as many as these can hold."""

    def __init__(self) -> None:
        self._room = {device: _room(device) for device in jax.local_devices()}
        self._chunks: dict[int, tuple[Any, Any]] = {}

    def numbers(self) -> list[int]:
        """Of those that wait, ascending."""
        return sorted(self._chunks)

    def put(self, number: int, chunk: Any) -> None:
        """Keeps a chunk on the emptiest device, if it has room."""
        device = max(self._room, key=lambda d: self._room[d])
        if self._room[device] >= _bytes(chunk):
            self._room[device] -= _bytes(chunk)
            self._chunks[number] = device, jax.device_put(chunk, device)

    def get(self, number: int) -> Any:
        """It, on every device."""
        return replicate(self._chunks[number][1])

    def keep_only(self, numbers: set[int]) -> None:
        """Lets go of all others."""
        for number in set(self._chunks) - numbers:
            device, chunk = self._chunks.pop(number)
            self._room[device] += _bytes(chunk)


def _room(device: Any) -> float:
    """Bytes that waiting chunks may take on a device."""
    stats = None if device.platform == "cpu" else device.memory_stats()
    return _SHARE * stats["bytes_limit"] if stats else _CPU_BYTES


def _bytes(chunk: Any) -> int:
    return sum(array.nbytes for array in jax.tree.leaves(chunk))
