"""The transport: which connections are used again, and which certificates are trusted."""

import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_cli.errors import Unreachable, UsageError
from lora_cli.sources.http import Http, Piece
from lora_cli.sources.retries import Retries
from tests.hub_server import Hub
from tests.sources.http_client import resumed
from tests.sources.raw_servers import (
    CERTIFICATE,
    OK,
    ask,
    forget_environment,
    fresh_environment,
    head,
    serve_tls,
    server,
)


@pytest.fixture(autouse=True)
def _a_fresh_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from fresh_environment(monkeypatch)


def test_a_certificate_is_trusted_by_name_by_folder_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hashed = ["openssl", "x509", "-hash", "-noout", "-in", str(CERTIFICATE)]
    name = subprocess.run(hashed, capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / f"{name}.0").write_bytes(CERTIFICATE.read_bytes())
    with server(serve_tls) as origin:
        with pytest.raises(Unreachable, match=r"certificate of 127\.0\.0\.1:\d+ is not trusted") as caught:
            ask(f"https://{origin}")
        assert "SSL_CERT_FILE" in caught.value.hint
        for variable, value in (("SSL_CERT_FILE", CERTIFICATE), ("SSL_CERT_DIR", tmp_path)):
            with monkeypatch.context() as patch:
                patch.setenv(variable, str(value))
                forget_environment()
                assert ask(f"https://{origin}") == {}
        monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/secret.pem")
        forget_environment()
        with pytest.raises(UsageError, match="the certificates in the environment cannot be used"):
            ask(f"https://{origin}")


def test_a_connection_that_the_server_closed_meanwhile_is_not_an_error() -> None:
    answered = threading.Semaphore(0)

    def serve(connection: socket.socket) -> None:
        head(connection)
        connection.sendall(OK)
        connection.close()
        answered.release()

    with server(serve) as address:
        for _ in range(3):
            assert ask(f"http://{address}") == {}
            assert answered.acquire(timeout=5)


def test_an_address_that_cannot_be_reached_is_not_tried_at_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def two(name: str, port: int, *more: Any, **options: Any) -> Any:
        addresses = ["127.0.0.2", "127.0.0.1"] if name == "two.example" else [name]
        return [found for address in addresses for found in real(address, port, *more, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", two)

    def serve(connection: socket.socket) -> None:
        while head(connection):
            connection.sendall(OK)

    with server(serve) as address:
        port = int(address.rpartition(":")[2])
        assert ask(f"http://two.example:{port}") == {}
        with socket.create_server(("127.0.0.2", port)) as other:
            other.settimeout(0.1)
            assert ask(f"http://two.example:{port}") == {}
            with pytest.raises(TimeoutError):
                other.accept()


def test_a_redirect_that_has_a_text_costs_no_connection_and_may_have_letters_that_are_not_ascii() -> None:
    connections, asked = list[socket.socket](), list[str]()
    moved = "HTTP/1.1 302 .\r\nLocation: /größer?a=%20b\r\nContent-Length: 25\r\n\r\nFound. It is over there.."

    def serve(connection: socket.socket) -> None:
        connections.append(connection)
        while True:
            asked.append(head(connection).split()[1])
            connection.sendall(OK if len(asked) > 1 else moved.encode("latin-1"))

    with server(serve) as address:
        assert ask(f"http://{address}/here") == {}
        assert len(connections) == 1
    assert asked[1] == "/gr%C3%B6%C3%9Fer?a=%20b"


@pytest.mark.parametrize("more", [0, 100_000])
def test_what_comes_after_an_answer_is_never_taken_for_the_next_one(more: int) -> None:
    smuggled = b"HTTP/1.1 200 .\r\nContent-Length: 7\r\n\r\n[1,2,3]"

    def serve(connection: socket.socket) -> None:
        while head(connection):
            connection.sendall(OK + smuggled + more * b"x" + smuggled)

    with server(serve) as address:
        for _ in range(3):
            assert ask(f"http://{address}") == {}


@pytest.mark.parametrize("reset", [False, True])
def test_what_came_before_a_connection_broke_is_kept(reset: bool) -> None:
    """However often it breaks: each try goes on where the one before it ended."""
    weights = bytes(range(256)) * 40

    def serve(connection: socket.socket) -> None:
        start = int(head(connection).partition("bytes=")[2].partition("-")[0] or 0)
        left = len(weights) - start
        placed = f"Content-Range: bytes {start}-{len(weights) - 1}/{len(weights)}"
        told = f"HTTP/1.1 206 .\r\nContent-Length: {left}\r\n{placed}\r\n\r\n"
        connection.sendall(told.encode() + weights[start : start + 100])
        time.sleep(0.05)
        connection.sendall(weights[start + 100 : start + 3000])
        time.sleep(0.05)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with server(serve) as address:
        url = f"http://{address}/x"
        read = resumed(Http(url, 5, Retries(1, lambda _: None)), url, Piece(0, len(weights), len(weights)))
        assert b"".join(read) == weights


@pytest.mark.parametrize("token", ["one\r\nX: two", "one\ntwo"])
def test_a_header_never_ends_early(token: str) -> None:
    with server(serve_tls) as address, pytest.raises(Unreachable, match="communication with"):
        ask(f"http://{address}", token)


def test_a_child_does_not_speak_on_its_parents_connections(hub: Hub) -> None:
    hub.add("acme/sql-lora", {"adapter_config.json": "{}"})
    url = f"{hub.endpoint}/api/models/acme/sql-lora/revision/main"
    assert ask(url)
    child = os.fork()
    if child == 0:
        os._exit(0 if ask(url) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert ask(url)
    assert hub.connections == 2
