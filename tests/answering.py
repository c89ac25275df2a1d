"""Servers of a few lines, for what no real one can be brought to say."""

import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, Self

Reply = tuple[int, bytes, Mapping[str, str]]
"""Status, body and headers."""


class Listening(ThreadingTCPServer):
    """A server on loopback in a thread of its own, while its context lasts: then open connections end, too."""

    request_queue_size = 256  # of five, a busy machine refuses some that come at once
    allow_reuse_address = daemon_threads = True

    def __init__(self, handler: Any = None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.open: set[socket.socket] = set()
        self.place = f"127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        self._thread.join()
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go when they have heard enough."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Asked(BaseHTTPRequestHandler):
    """One request, with its body."""

    body = b""


@contextmanager
def answering(
    reply: Callable[[Asked], Reply], *, prepare: Callable[[Listening], None] = lambda _: None
) -> Iterator[str]:
    """A server that answers every request as ``reply`` says; its address.

    A header without a value is left out. ``prepare`` sees the server before it is asked anything.
    """

    class Handler(Asked):
        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body, headers = reply(self)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
                self.wfile.flush()

        do_HEAD = do_POST = do_PUT = do_GET

    with Listening(Handler) as running:
        prepare(running)
        yield f"http://{running.place}"
