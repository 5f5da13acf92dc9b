"""Serves clients in turn, however many requests one of them has sent."""

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator
from typing import Any


class Turns:
    """Lets one request of each client work at a time, and a number of requests in all.

    A client waits for at most one request of each other client.
    """

    def __init__(self, most: int):
        """Set the number of requests that work at a time."""
        self._free = asyncio.Semaphore(most)
        self._clients: dict[str, tuple[asyncio.Lock, list[None]]] = {}

    @contextlib.asynccontextmanager
    async def take(self, client: str) -> AsyncIterator[None]:
        """Wait for a turn of a client; the context is the turn."""
        lock, users = self._clients.setdefault(client, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock, self._free:
                yield
        finally:
            users.pop()
            if not users:
                self._clients.pop(client, None)


def client_of(request: Any) -> str:
    """Return the client that sent a request."""
    return client_at(request.client.host if request.client else "")


def client_at(address: str) -> str:
    """Return the client of an address: the address, or its /64 network for IPv6.

    A client of IPv6 has 2^64 addresses.
    """
    try:
        number = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # no address, as in tests
        return address
    number = getattr(number, "ipv4_mapped", None) or number
    if number.version == 4 or number.is_loopback:
        return str(number)
    return str(ipaddress.ip_network((number, 64), strict=False))
