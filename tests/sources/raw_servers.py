"""Servers of a few lines, which answer each connection as a test says, and the client's question."""

import gc
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from lora_cli.sources import transport
from lora_cli.sources.http import Http, get_json
from lora_cli.sources.retries import Retries

CERTIFICATE = Path(__file__).parent / "tls/localhost.pem"
OK = b"HTTP/1.1 200 .\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """``host:port`` of a server that gives each connection to ``serve``, in a thread of its own."""
    threads: list[threading.Thread] = []

    def one(connection: socket.socket) -> None:
        with connection:
            try:
                serve(connection)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=one, args=(connection,)))
            threads[-1].start()

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        close_idle()
        for thread in threads:
            thread.join()


def close_idle() -> None:
    """Closes the connections of this process that wait for their next request."""
    pools = transport.manager(None, os.getpid()).pools
    for key in pools.keys():  # noqa: SIM118 - it is no mapping that could be iterated
        pools[key].close()
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


def serve_tls(connection: socket.socket) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with context.wrap_socket(connection, server_side=True) as stream:
        stream.recv(65536)
        stream.sendall(OK)


def ask(endpoint: str, token: str = "") -> object:
    return Retries(0).call("info", lambda: get_json(Http(endpoint, 5, token=token), endpoint, "info")[0])


@contextmanager
def raw_server(*answers: bytes) -> Iterator[str]:
    """A server that sends these bytes, one answer a connection, the last one again and again."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            for number in range(100):
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answers[min(number, len(answers) - 1)])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def fresh_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of this machine's ways to the network, and none that an earlier test found."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("SSL_CERT")]:
        monkeypatch.delenv(name)
    forget_environment()
    yield
    forget_environment()


def forget_environment() -> None:
    """The proxies and certificates of the environment are looked for anew."""
    transport.manager.cache_clear()
    transport.proxy_for.cache_clear()
    transport.tls.cache_clear()
