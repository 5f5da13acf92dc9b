"""A server for tests, on loopback: a client that goes away is no error."""

import sys
from http.server import ThreadingHTTPServer


class LoopbackServer(ThreadingHTTPServer):
    """Says nothing of closed connections: the next test would find the text in its own stderr."""

    def handle_error(self, request, client_address):
        """Report all but a closed connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
