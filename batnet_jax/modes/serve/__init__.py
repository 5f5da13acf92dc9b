"""The mode `serve`: a web page that shows the gallery images most similar to a dropped image.

access: host names, the token and headers.
connections: limits of connections and of their time.
turns: the order of requests, fair to all clients.
app, server: the routes, and uvicorn with limits.
endpoints, answers, uploads: the answers, and the images of requests.
following: reopens a gallery whose file was replaced.
openapi: the description of the endpoints.
verdicts: words for scores.
page.html, page.css, page.js, crop.js: the page in the browser, with the report's base.css.
"""

import ipaddress
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from batnet_jax.errors import UserError
from batnet_jax.inference.joined_galleries import split_paths
from batnet_jax.inference.search import Searcher
from batnet_jax.modes.accept import parse_accept, threshold


def run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    gallery: Path,
    host: str,
    port: int,
    token: str | None = None,
    allow_host: Sequence[str] | None = None,
    accept: str | None = None,
) -> None:
    """Serve the page until a signal ends the process.

    Args:
      config: see `loading.load_with_config`.
      workdir: a workdir or a checkpoint.
      gallery: see `Searcher`; several with commas between them, see `split_paths`. Feature files
        that are replaced while the page is served are opened again.
      host: the address to listen at.
      port: 0 = any free port.
      token: the token that requests must send. None: the variable BATNET_TOKEN; without it a random
        token, if other machines can reach the address.
      allow_host: host names to answer to, beside the address and this machine's own.
      accept: see `accept.parse_accept`; None to answer with hits of any score.

    Raises: UserError if the packages of the extra `serve` are not installed, the address is not
      available, the token, a host name or `accept` is not valid, or the model or the gallery is
      missing.
    """
    import_uvicorn()
    from batnet_jax.modes.serve import access, app, following, server, verdicts

    wanted = None if accept is None else parse_accept(accept)
    more_names = allow_host or []
    access.check_names(more_names)
    token = os.environ.get("BATNET_TOKEN") if token is None else token
    if token is not None:
        access.check_token(token)
    with listen(host, port) as listener:  # fails before the slow steps
        address, number = listener.getsockname()[:2]
        if token is None and not access.is_local(address):
            token = secrets.token_hex(24)
        searcher = Searcher(config, workdir, split_paths(str(gallery)), batch=1)
        count, step = len(searcher.gallery.features), searcher.model.step
        lowest = None if wanted is None else threshold(wanted, workdir, step, count)
        searcher.search(np.zeros((1, 8, 8, 3), np.uint8), 1)  # compiles the network
        names = access.HostNames(address, [host, *more_names] if host else more_names)
        announce(host, address, number, token, count)
        bands = verdicts.read_bands(workdir, step)
        live = following.Following(searcher)
        live.start()
        server.serve(app.make_app(live, names, token, bands, lowest), listener)


def announce(host: str, address: str, port: int, token: str | None, count: int) -> None:
    """Print where the page is, and warn if other machines can reach it."""
    from batnet_jax.modes.serve.access import is_local, own_name

    end = f":{port}/?token={token}" if token else f":{port}"
    number = ipaddress.ip_address(address.partition("%")[0])
    shown = address
    if number.is_unspecified:  # an address that works on this machine
        shown = "127.0.0.1" if number.version == 4 else "::1"
    shown = f"[{shown}]" if ":" in shown else shown
    if not is_local(address):
        print(
            f"warning: --host={host} lets everybody who has the token search the gallery and see"
            " its images; nothing is encrypted",
            file=sys.stderr,
        )
    print(f"{count} gallery images; ready at http://{shown}{end} (Ctrl-C stops)", flush=True)
    if number.is_unspecified:
        print(f"from other machines: http://{own_name()}{end}", flush=True)


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

    Args:
      host: an address or a host name; "" or 0.0.0.0 for all addresses of IPv4, :: for all.
      port: 0 = any free port.

    Raises: UserError if the address does not exist or the port is taken.
    """
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)
        # Of a name's addresses that of IPv4, which every client has.
        family, _, _, _, place = min(found, key=lambda one: one[0] != socket.AF_INET)
        both = family == socket.AF_INET6 and place[0] == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(place, family=family, dualstack_ipv6=both)  # type: ignore[arg-type]
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen at --host={host} --port={port} ({reason}): give another --port"
        ) from error
