"""Access to the server: the host names that it answers to, the token, and the headers of answers.

A web site can lead a browser to this server under a name of its own (DNS rebinding). So a request
must name a host that the server knows. Addresses are allowed, because nobody can make an address
lead elsewhere.
"""

import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response

from batnet_jax.errors import UserError, printable

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
"""The headers of every answer: other sites can neither read nor frame it, and caches do not keep
it."""
COOKIE_SECONDS = 30 * 24 * 3600
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:@/?#\s]+))(?::\d{0,5})?")
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?\.?")
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{1,200}")


class HostNames:
    """The host names that the server answers to."""

    def __init__(self, address: str, names: Iterable[str] = ()):
        """Allow the address that the server listens at, and more names.

        Args:
          address: an IP address. If other machines can reach it, all addresses are allowed, since
            networks translate them.
          names: host names and addresses.
        """
        self._is_local = is_local(address)
        allowed = {"localhost", *names} if self._is_local else {"localhost", own_name(), *names}
        self._names = {_plain(name) for name in allowed}
        self._numbers = {_number(name) for name in (address, *names)} - {None}

    def allows(self, header: str) -> bool:
        """Return whether the header `Host` of a request names this server."""
        found = _HOST.fullmatch(header)
        if found is None:
            return False
        name = found[1] or found[2]
        number = _number(name)
        if number is None:
            return _plain(name) in self._names
        return number in self._numbers or number.is_loopback or not self._is_local


def is_local(address: str) -> bool:
    """Return whether only this machine can reach an IP address."""
    number = _number(address)
    return number is not None and number.is_loopback


def own_name() -> str:
    """Return the host name of this machine."""
    return socket.gethostname() or "localhost"


def check_names(names: Iterable[str]) -> None:
    """Check the host names that a user allows.

    Raises: UserError for a name with a port, a path or a wildcard.
    """
    for name in names:
        if _number(name) is None and not _NAME.fullmatch(name):
            raise UserError(
                f"--allow_host={name!r} is not a host name: give names such as search.example.org, "
                "without http://, port, path and *, separated by commas"
            )


def check_token(token: str) -> None:
    """Check the token that a user gives.

    Raises: UserError if a URL or a cookie cannot carry the token.
    """
    if not _TOKEN.fullmatch(token):
        raise UserError("--token must have 1 to 200 letters, digits or . _ ~ -")


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _number(name: str) -> Any:
    """Return a name as an IP address; None if it is not an address."""
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    try:
        number = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None
    return getattr(number, "ipv4_mapped", None) or number


class Guard:
    """An ASGI application around another that requires a known host name and the token."""

    def __init__(self, app: Any, names: HostNames, token: str | None):
        """Guard an application.

        Args:
          app: the ASGI application.
          names: see `HostNames`.
          token: the token that requests must send; None = requests need no token.
        """
        self._app, self._names, self._token = app, names, token
        digest = hashlib.sha256((token or "").encode()).hexdigest()
        self._cookie = f"batnet_{digest[:12]}"  # cookies of one host know no port

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or pass it to the application; add `HEADERS` to each answer."""

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._check(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _check(self, scope: Any) -> Response | None:
        """Return the answer to a request that goes no further, or None."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if not (hosts and all(map(self._names.allows, hosts))):
            named = printable(", ".join(hosts))[:100]
            hint = "ask by its address, or start it with --allow_host=NAME"
            return refuse(400, f"this server does not answer to the name '{named}': {hint}")
        if self._token is None:
            return None
        asked = self._is_token(_token_of_query(scope))
        if asked and scope["path"] == "/":
            answer = RedirectResponse("./", 303)  # the token leaves the address line
            age = COOKIE_SECONDS
            answer.set_cookie(self._cookie, self._token, age, httponly=True, samesite="lax")
            return answer
        scheme, _, given = headers.get("authorization", "").partition(" ")
        in_header = scheme.lower() in ("bearer", "token") and self._is_token(given.strip())
        if asked or in_header or self._is_token(_cookie_of(headers, self._cookie)):
            return None
        hint = "open the address that it printed, which ends in ?token=..."
        return refuse(401, f"this server needs its token: {hint}", {"WWW-Authenticate": "Bearer"})

    def _is_token(self, given: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(given.encode(errors="replace"), self._token.encode())


def refuse(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return an answer with an error."""
    return JSONResponse({"error": message}, status, headers=headers)


def _token_of_query(scope: Any) -> str:
    try:
        fields = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=20)
    except ValueError:  # more fields
        return ""
    return fields.get("token", [""])[0]


def _cookie_of(headers: Headers, name: str) -> str:
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[name].value if name in cookies else ""
