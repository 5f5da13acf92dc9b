"""The mode `serve`: a page where an image is dropped and the gallery's like it are shown.

`app` answers requests; `page.html`, `page.css` and `page.js` are what the browser gets.
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

__all__ = ["run_serve"]

WAITING = 32
"""Requests at once; further ones are told to come later."""


def run_serve(
    config: ml_collections.ConfigDict, workdir: Path, *, gallery: Path, host: str, port: int
) -> None:
    """Serves the page until it is stopped (Ctrl-C, or SIGTERM).

    Args:
      config: see `model.load_with_config`.
      workdir: a workdir or a checkpoint.
      gallery: see `Searcher`.
      host: the address to listen at.
      port: 0 = any that is free.

    Raises: UserError if the extra is not installed, the address cannot be had, or the model or the
      gallery is missing.
    """
    uvicorn = import_uvicorn()
    from batnet_jax.modes.serve.app import make_app

    with listen(host, port) as listener:  # before the work
        searcher = Searcher(config, workdir, gallery, batch=1)
        searcher.search(np.zeros((1, 8, 8, 3), np.uint8), 1)  # compiles
        local = is_local(host)
        if not local:
            print(
                f"warning: --host={host} lets everybody who reaches this machine search the"
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
            log_config=None,  # uvicorn's own would close the handlers that are there
            log_level="warning",
            server_header=False,
            limit_concurrency=WAITING,
        )
        try:
            uvicorn.Server(settings).run(sockets=[listener])
        except (KeyboardInterrupt, Terminated):
            print("stopped")


def import_uvicorn() -> Any:
    """The server.

    Raises: UserError if it or the framework is not installed.
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
    """A socket that listens.

    Raises: UserError if there is no such address, or the port is taken.
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
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name
        return False
