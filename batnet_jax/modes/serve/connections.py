"""Limits of connections, so that one client cannot keep the server from the others.

Whenever the server waits for a client, the connection has a deadline, and it can be ended to make
room for another connection. A connection whose request is being answered is never ended.

uvicorn limits the total of connections, and the time between two requests. It limits neither one
client's connections, nor the time for a request's head and body, nor the time for taking an answer.
"""

import asyncio
import contextlib
import enum
import json
import resource
from collections.abc import Mapping
from typing import Any

import h11
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from batnet_jax.modes.serve.access import HEADERS
from batnet_jax.modes.serve.turns import client_at

MOST = 512
"""Connections in all."""
MOST_OF_CLIENT = 128
"""Connections of one client: an IPv4 address, or a /64 network of IPv6."""
MOST_BYTES = 384 * 2**20
"""Bytes of all requests' bodies at a time."""
KEEP_ALIVE_SECONDS = 5
"""Seconds until the next request must begin."""
MOST_REFUSED = 64
"""Connections that are told that the server is busy; more are cut off."""
REFUSED_SECONDS = 1
BUSY = "the server is busy: try again"


class Phase(enum.Enum):
    """The state of a connection: what it waits for."""

    HEAD = "the head of a request, since the start or since the last answer"
    BODY = "the body of a request"
    WORK = "the server"
    ANSWER = "the client to take the answer"


SECONDS = {Phase.HEAD: 10, Phase.BODY: 65, Phase.ANSWER: 30}
"""Deadlines. Before the deadline of a body, `app` refuses the body with an answer."""


class Connection:
    """A connection, from its start until the work on its last request ends.

    Attributes:
      client: see `client_at`.
      phase: what the connection waits for.
      since: when the phase began, in seconds of the event loop.
      held: bytes of the body that is being received or worked on.
      requests: how many requests are being read or worked on; more than 1 only for moments.
      is_lost: whether the socket is closed.
    """

    def __init__(self, transport: Any, peer: Any, seconds: Mapping[Phase, float] = SECONDS):
        """Begin a connection in the phase HEAD.

        Args:
          transport: asyncio's.
          peer: address and port of the client.
          seconds: deadlines of phases.
        """
        self._seconds = seconds
        self.client = client_at(str(peer[0]))
        self.peer = (str(peer[0]), int(peer[1]))
        self.held = 0
        self.requests = 0
        self.is_lost = False
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.enter(Phase.HEAD)

    def enter(self, phase: Phase) -> None:
        """Begin a phase with its deadline."""
        self.phase, self.since = phase, self._loop.time()
        self.stop_timer()
        if phase in self._seconds:
            self._timer = self._loop.call_later(self._seconds[phase], self.end)

    def end(self) -> None:
        """Cut the connection off."""
        self._transport.abort()

    def stop_timer(self) -> None:
        """Remove the deadline."""
        if self._timer is not None:
            self._timer.cancel()


class Connections:
    """All connections of a server."""

    def __init__(
        self,
        most: int = MOST,
        most_of_client: int = MOST_OF_CLIENT,
        seconds: Mapping[Phase, float] = SECONDS,
    ):
        """Set the limits; few open files allow fewer connections.

        Args:
          most: connections in all.
          most_of_client: connections of one client.
          seconds: deadlines of phases.
        """
        self._seconds = seconds
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = most if files == resource.RLIM_INFINITY else max(1, min(most, files // 2))
        self._most_of_client = most_of_client
        self._all: dict[tuple[str, int], Connection] = {}
        self._refused: set[Any] = set()

    def open(self, transport: Any) -> Connection | None:
        """Accept a connection, and end another one if there are too many.

        Returns: None if no connection can be ended, because all requests are being worked on.
        """
        peer = transport.get_extra_info("peername")
        if peer is None:  # it has ended already
            return None
        new = Connection(transport, peer, self._seconds)
        own = [one for one in self._all.values() if one.client == new.client]
        fits = len(own) < self._most_of_client or self._end_one_of(own)
        if fits and len(self._all) >= self._most:
            fits = self._end_one_of(self._heaviest())
        if not fits:
            new.stop_timer()
            return None
        self._all[new.peer] = new
        return new

    def _heaviest(self) -> list[Connection]:
        """Return the connections that can be ended, of the client with most of them."""
        clients: dict[str, list[Connection]] = {}
        for one in self._all.values():
            if one.phase is not Phase.WORK:
                clients.setdefault(one.client, []).append(one)
        return max(clients.values(), key=len, default=[])

    def _end_one_of(self, candidates: list[Connection]) -> bool:
        """End the connection that its client has kept waiting for longest."""
        waiting = [one for one in candidates if one.phase is not Phase.WORK]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda one: one.since)
        oldest.end()
        self._all.pop(oldest.peer, None)
        return True

    def forget_if_over(self, connection: Connection) -> None:
        """Forget a connection that is lost and whose requests are no longer worked on."""
        if connection.is_lost and not connection.requests:
            connection.stop_timer()
            if self._all.get(connection.peer) is connection:
                del self._all[connection.peer]

    def hold(self, connection: Connection, count: int) -> None:
        """Count bytes of a body; end other uploads if there are too many bytes.

        Raises: HTTPException with status 503 if there is no other upload to end.
        """
        connection.held += count
        while sum(one.held for one in self._all.values()) > MOST_BYTES:
            uploads = [o for o in self._all.values() if o.phase is Phase.BODY and o.held]
            others = [one for one in uploads if one is not connection]
            if not others:
                raise HTTPException(503, BUSY, {"Retry-After": "1"})
            victim = min(others, key=lambda one: one.since)
            victim.held = 0  # its request gives the memory back in the loop's next round
            victim.end()

    def refuse(self, transport: Any) -> None:
        """Answer that the server is busy, and end a connection that `open` has not accepted."""
        if len(self._refused) >= MOST_REFUSED:
            transport.abort()
            return
        # The client sees the answer only if what it sends is read for a while.
        self._refused.add(transport)
        transport.write(plain_answer(503, BUSY))
        with contextlib.suppress(OSError):
            transport.write_eof()
        asyncio.get_running_loop().call_later(REFUSED_SECONDS, self._end_refused, transport)

    def _end_refused(self, transport: Any) -> None:
        transport.abort()
        self._refused.discard(transport)

    def end_all(self, *, working: bool) -> None:
        """End all connections.

        Args:
          working: also end connections whose requests are being worked on.
        """
        for transport in list(self._refused):
            self._end_refused(transport)
        for connection in list(self._all.values()):
            if working or connection.phase is not Phase.WORK:
                connection.end()

    def find(self, scope: Any) -> Connection | None:
        """Return the connection of a request; None outside the server, as in tests."""
        address, port = scope["client"] or ("", 0)
        return self._all.get((address, port))

    def watch(self, app: Any) -> Any:
        """Return an ASGI application that keeps the phases of connections around another."""

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            connection = self.find(scope)
            if connection is None:
                await app(scope, receive, send)
                return

            async def receive_and_count() -> Any:
                message = await receive()
                if message["type"] == "http.request":
                    self.hold(connection, len(message["body"]))
                    if not message["more_body"] and connection.phase is Phase.BODY:
                        connection.enter(Phase.WORK)
                return message

            async def send_in_time(message: Any) -> None:
                if connection.phase is not Phase.ANSWER:
                    connection.enter(Phase.ANSWER)
                await send(message)

            connection.requests += 1
            connection.enter(Phase.BODY if _has_body(scope) else Phase.WORK)
            try:
                await app(scope, receive_and_count, send_in_time)
            finally:
                connection.requests -= 1
                connection.held = 0
                connection.enter(Phase.HEAD)
                self.forget_if_over(connection)

        return watched


def _has_body(scope: Any) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def make_protocol(connections: Connections) -> type[H11Protocol]:
    """Make uvicorn's protocol of HTTP with the limits of `connections`."""

    class LimitedProtocol(H11Protocol):
        """HTTP/1.1 on one connection."""

        connection: Connection | None = None

        def connection_made(self, transport: Any) -> None:
            self.connection = connections.open(transport)
            if self.connection is not None:
                super().connection_made(transport)
            else:
                connections.refuse(transport)

        def data_received(self, data: bytes) -> None:
            if self.connection is not None:
                super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            if self.connection is not None:
                super().connection_lost(exc)
                self.connection.is_lost = True
                connections.forget_if_over(self.connection)

        def send_400_response(self, msg: str) -> None:
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self.transport.write(plain_answer(400, msg))
            self.transport.close()

    return LimitedProtocol


def plain_answer(status: int, message: str) -> bytes:
    """Return an answer to a malformed request or a refused connection, which ends after it."""
    body = json.dumps({"error": message}).encode()
    phrase = {400: "Bad Request", 503: "Service Unavailable"}[status]
    fields = {**HEADERS, "Content-Type": "application/json", "Content-Length": str(len(body))}
    fields |= {"Connection": "close"} | ({"Retry-After": "1"} if status == 503 else {})
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
