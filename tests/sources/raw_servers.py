"""Servers of a few lines, which answer each connection as a test says, and what a Hub's client makes of them."""

import gc
import json
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import BaseRequestHandler
from typing import Any

from lora_cli.refs.reference import AdapterRef
from lora_cli.settings import Settings
from lora_cli.sources import Source, transport
from lora_cli.sources.registry import open_source
from tests.answering import Listening

CERTIFICATE = Path(__file__).parent / "tls/localhost.pem"
ACME = AdapterRef("hf", "acme/sql")
LISTING = json.dumps({"sha": "0" * 40, "siblings": [{"rfilename": "adapter_config.json", "size": 2}]})
OK = f"HTTP/1.1 200 .\r\nContent-Length: {len(LISTING)}\r\n\r\n{LISTING}".encode()


def at(endpoint: str, **settings: Any) -> Source:
    """The Hub's source, at another endpoint."""
    options = {"timeout_s": 5, "retries": 0, **settings}
    return open_source("hf", Settings(Path("/nowhere"), hub_endpoint=endpoint, **options))


def ask(endpoint: str) -> list[str]:
    """What is listed there."""
    return [file.path for file in at(endpoint).resolve(ACME).files]


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """``host:port`` of a server that gives each connection to ``serve``, in a thread of its own."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                serve(self.request)

    with Listening(Handler) as listener:
        try:
            yield listener.place
        finally:
            # Closes the connections of this process that wait for their next request: the handlers wait for these.
            transport.manager("", os.getpid()).clear()
            transport.manager.cache_clear()
            gc.collect()


def head(connection: socket.socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError
        data += piece
    return data.decode()


def serve_tls(connection: socket.socket, then: Callable[[socket.socket], None] | None = None) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with context.wrap_socket(connection, server_side=True) as stream:
        if then is not None:
            then(stream)
        elif head(stream):
            stream.sendall(OK)


def forget_environment() -> None:
    """The proxies and certificates of the environment are looked for anew."""
    transport.manager.cache_clear()
    transport.proxy_for.cache_clear()
    transport.tls.cache_clear()
