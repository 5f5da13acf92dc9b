"""The server: uvicorn with limits, and an end within seconds."""

import logging
import os
import socket
import threading
from typing import Any

import uvicorn

from batnet_jax.modes.serve.connections import (
    KEEP_ALIVE_SECONDS,
    Connections,
    make_protocol,
)

STOP_SECONDS = 1
"""Time that requests being worked on have to end when the server stops."""
LAST_SECONDS = 3
"""Time after which the process ends in any case, because a thread cannot be interrupted."""


class Server(uvicorn.Server):
    """uvicorn's server, which ends connections that wait for a client before it stops."""

    def __init__(self, app: Any, connections: Connections | None = None):
        """Make a server of an ASGI application."""
        self.limits = connections or Connections()
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

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop the server when a signal arrives."""
        if not self.should_exit:
            timer = threading.Timer(LAST_SECONDS, os._exit, (128 + sig,))
            timer.daemon = True
            timer.start()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what waits for clients, then give the rest `STOP_SECONDS`."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # of requests cut off now
        self.limits.end_all(working=False)
        await super().shutdown(sockets)
        self.limits.end_all(working=True)


def serve(app: Any, listener: socket.socket) -> None:
    """Serve an ASGI application until a signal arrives.

    Raises: what the signal's handler raises, once the server has stopped.
    """
    Server(app).run(sockets=[listener])
