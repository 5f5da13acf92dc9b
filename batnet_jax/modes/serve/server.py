"""The server: uvicorn with limits on connections, which ends within seconds of a signal."""

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from batnet_jax.modes.serve.connections import KEEP_ALIVE_SECONDS, Connections, make_protocol
from batnet_jax.runtime import signals

STOP_SECONDS = 1
"""Time that requests being worked on have to end when the server stops."""
LAST_SECONDS = 3
"""Time after which the process ends in any case, because a thread cannot be interrupted."""


class Server(uvicorn.Server):
    """uvicorn's server, which ends connections that wait for a client before it stops."""

    def __init__(self, app: Any, connections: Connections | None = None):
        """Make a server of an ASGI application."""
        self.limits = connections or Connections()
        self._ended_by: int | None = None
        super().__init__(
            uvicorn.Config(
                self.limits.watch(app),
                http=make_protocol(self.limits),
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,  # uvicorn's default would close the existing log handlers
                log_level="error",  # not each request that is no HTTP
                access_log=False,
                server_header=False,
                proxy_headers=False,  # a client could name another one
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop the server when a signal arrives, and raise the signal once the server has stopped.

        uvicorn's own method ignores SIGHUP, and handles signals that the process ignores.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in signals.heard()}
        try:
            yield
        finally:
            for number, call in before.items():
                signal.signal(number, call)
        if self._ended_by is not None:
            signal.raise_signal(self._ended_by)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop the server; a second Ctrl-C ends the process at once."""
        if self._ended_by is not None:
            if sig == signal.SIGINT:
                signals.end_at_once(sig)
            return
        self._ended_by, self.should_exit = sig, True
        timer = threading.Timer(LAST_SECONDS, signals.end_at_once, (sig,))
        timer.daemon = True
        timer.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End connections that wait for clients, then give the others `STOP_SECONDS`."""
        # Requests that are cut off from now on would log errors.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self.limits.end_all(working=False)
        await super().shutdown(sockets)
        self.limits.end_all(working=True)


def serve(app: Any, listener: socket.socket) -> None:
    """Serve an ASGI application until a signal arrives.

    Raises: what the signal's handler raises, once the server has stopped.
    """
    Server(app).run(sockets=[listener])
