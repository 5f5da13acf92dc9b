"""The mode `serve`: a web page that shows the gallery images most similar to a dropped image.

app: answers requests.
page.html, page.css, page.js: the page in the browser.
"""

import ipaddress
import socket
import sys
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from batnet_jax.errors import UserError
from batnet_jax.inference.search import Searcher
from batnet_jax.runtime.preemption import Terminated

MAX_REQUESTS = 32
"""Requests at a time; the server answers more with status 503."""


def run(
    config: ml_collections.ConfigDict, workdir: Path, *, gallery: Path, host: str, port: int
) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
      config: see `model.load_with_config`.
      workdir: a workdir or a checkpoint.
      gallery: see `Searcher`.
      host: the address to listen at.
      port: 0 = any free port.

    Raises: UserError if the packages of the extra `serve` are not installed, the address is not
      available, or the model or the gallery is missing.
    """
    uvicorn = import_uvicorn()
    from batnet_jax.modes.serve.app import make_app

    with listen(host, port) as listener:  # fails before the slow steps
        searcher = Searcher(config, workdir, gallery, batch=1)
        searcher.search(np.zeros((1, 8, 8, 3), np.uint8), 1)  # compiles the network
        local = is_local(host)
        if not local:
            print(
                f"warning: --host={host} lets everybody who can reach this machine search the"
                " gallery and see its images; there is no password",
                file=sys.stderr,
            )
        address, number = listener.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        count = len(searcher.gallery.features)
        print(
            f"{count} gallery images; ready at http://{shown}:{number} (Ctrl-C stops)", flush=True
        )
        settings = uvicorn.Config(
            make_app(searcher, local=local),
            log_config=None,  # uvicorn's default would close the existing log handlers
            log_level="warning",
            server_header=False,
            limit_concurrency=MAX_REQUESTS,
        )
        try:
            uvicorn.Server(settings).run(sockets=[listener])
        except (KeyboardInterrupt, Terminated):
            print("stopped")


def import_uvicorn() -> Any:
    """Import the web server.

    Raises: UserError if the server or its framework is not installed.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise UserError(
            f"--mode=serve needs {error.name}, which is not installed: pip install"
            " 'batnet-jax[serve]'"
        ) from error
    return uvicorn


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Raises: UserError if the address does not exist or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen at --host={host} --port={port} ({reason}): give another --port"
        ) from error


def is_local(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name
        return False
