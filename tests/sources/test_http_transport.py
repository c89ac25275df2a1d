"""The transport: which connections are used again, which certificates are trusted, and how answers are bounded."""

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

from lora_cli.errors import Unreachable
from lora_cli.sources import http_transport
from lora_cli.sources.http import Http, Piece, get_bytes
from lora_cli.sources.http_json import get_json
from lora_cli.sources.retries import Retries
from tests.hub_server import Hub
from tests.sources.raw_servers import CERTIFICATE, OK, ask, fresh_environment, head, serve_tls, server


@pytest.fixture(autouse=True)
def _a_fresh_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from fresh_environment(monkeypatch)


def test_certificates_are_those_of_a_folder_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with server(serve_tls) as origin:
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
        with pytest.raises(Unreachable, match="is not trusted"):
            ask(f"https://{origin}")
        http_transport.tls.cache_clear()
        hashed = ["openssl", "x509", "-hash", "-noout", "-in", str(CERTIFICATE)]
        name = subprocess.run(hashed, capture_output=True, text=True, check=True).stdout.strip()
        (tmp_path / f"{name}.0").write_bytes(CERTIFICATE.read_bytes())
        assert ask(f"https://{origin}") == {}


def test_a_connection_that_the_server_closed_meanwhile_is_not_an_error() -> None:
    answered = threading.Semaphore(0)

    def serve(connection: socket.socket) -> None:
        head(connection)
        connection.sendall(OK)
        answered.release()

    with server(serve) as address:
        for _ in range(3):
            assert ask(f"http://{address}") == {}
            assert answered.acquire(timeout=5)


def test_a_connection_that_is_closed_at_the_next_request_is_not_an_error() -> None:
    def serve(connection: socket.socket) -> None:
        head(connection)
        connection.sendall(OK)
        head(connection)

    with server(serve) as address:
        for _ in range(3):
            assert ask(f"http://{address}") == {}


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


def test_a_redirect_that_has_a_text_costs_no_connection() -> None:
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        connections.append(connection)
        while True:
            path = head(connection).split()[1]
            moved = b"HTTP/1.1 302 .\r\nLocation: /there\r\nContent-Length: 25\r\n\r\nFound. It is over there.."
            connection.sendall(OK if path == "/there" else moved)

    with server(serve) as address:
        assert ask(f"http://{address}/here") == {}
        assert len(connections) == 1


@pytest.mark.parametrize("more", [0, 100_000])
def test_what_comes_after_an_answer_is_never_taken_for_the_next_one(more: int) -> None:
    smuggled = b"HTTP/1.1 200 .\r\nContent-Length: 7\r\n\r\n[1,2,3]"

    def serve(connection: socket.socket) -> None:
        while head(connection):
            connection.sendall(OK + smuggled + more * b"x" + smuggled)

    with server(serve) as address:
        for _ in range(3):
            assert ask(f"http://{address}") == {}


HEAD = b"HTTP/1.1 200 .\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nX: never ends",
        HEAD + b"Content-Length: 2\r\n",
        HEAD + b"X: never ends",
        HEAD + b"X: y\r\n" * 201 + b"\r\n{}",
        HEAD + b"X: " + b"y" * 70_000 + b"\r\n\r\n{}",
        HEAD + (b"X: " + b"y" * 9000 + b"\r\n") * 9 + b"\r\n{}",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        HEAD + b"Content-Length: 20\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"2\r\n{",
        CHUNKED + b"2\r\n{}\r\n",
        CHUNKED + b"two\r\n{}\r\n0\r\n\r\n",
        CHUNKED + b"2\r\n{}\r\n" + b"1" * 100_000,
        b"HTTP/1.1 100 .\r\n\r\n" * 10_000 + OK,
    ],
)
def test_what_is_no_whole_answer_is_never_taken_for_one(answer: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        head(connection)
        connection.sendall(answer)

    with server(serve) as address, pytest.raises(Unreachable, match="was cut"):
        ask(f"http://{address}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"", b"H"),
        (HEAD, b"X"),
        (HEAD + b"Content-Length: 1000000\r\n\r\n{", b" "),
        (HEAD + b"\r\n{", b" "),
        (CHUNKED + b"2\r\n{}\r\n", b"1"),
        (CHUNKED + b"2\r\n{}\r\n0\r\n", b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 .\r\n\r\n"),
    ],
    ids=["status", "head", "body", "body without a length", "size of a chunk", "trailers", "interim answers"],
)
def test_an_answer_that_trickles_is_given_up(first: bytes, then: bytes) -> None:
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        head(connection)
        connection.sendall(first)
        while not ended.wait(0.02):
            connection.sendall(then)

    with server(serve) as address:
        began = time.monotonic()
        with pytest.raises(Unreachable, match=r"sent no data|sent only|did not finish"):
            get_json(Http(f"http://{address}", 0.3, Retries(0)), f"http://{address}", "info")
        ended.set()
        assert time.monotonic() - began < 2


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
        read = get_bytes(Http(url, 5, Retries(1, lambda _: None)), url, Piece(0, len(weights), len(weights)), "weights")
        assert b"".join(read) == weights


@pytest.mark.parametrize("token", ["one\r\nX: two", "one\ntwo", "one\0two"])
def test_a_header_never_ends_early(token: str) -> None:
    with pytest.raises(Unreachable, match="communication with"):
        ask("http://127.0.0.1:9", token)


def test_a_redirect_may_have_letters_that_are_not_ascii() -> None:
    asked: list[str] = []

    def serve(connection: socket.socket) -> None:
        while True:
            asked.append(head(connection).split()[1])
            moved = "HTTP/1.1 302 .\r\nLocation: /gewichte-größer?a=%20b\r\nContent-Length: 0\r\n\r\n".encode("latin-1")
            connection.sendall(moved if len(asked) == 1 else OK)

    with server(serve) as address:
        assert ask(f"http://{address}/here") == {}
    assert asked[1] == "/gewichte-gr%C3%B6%C3%9Fer?a=%20b"


def test_a_body_in_chunks_is_read_to_its_end() -> None:
    def serve(connection: socket.socket) -> None:
        while True:
            head(connection)
            connection.sendall(b"HTTP/1.1 200 .\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n01\r\n3\r\n234\r\n0\r\n\r\n")

    with server(serve) as address:
        for _ in range(2):
            read = get_bytes(
                Http(f"http://{address}", 5, Retries(0)), f"http://{address}/x", Piece(0, None, 5), "weights"
            )
            assert b"".join(read) == b"01234"


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


def test_more_servers_than_are_kept_in_mind_do_not_hinder_a_new_one(hub: Hub) -> None:
    hub.add("acme/sql-lora", {"adapter_config.json": "{}"})

    def serve(connection: socket.socket) -> None:
        head(connection)
        connection.sendall(OK)
        connection.recv(1)

    with server(serve) as address:
        answers = [http_transport.send(f"http://{address}/", {}, 5) for _ in range(http_transport.MOST_IDLE + 1)]
        for answer in answers:
            assert list(answer.chunks()) == [b"{}"]
            answer.close()
        for _ in range(3):
            assert ask(f"{hub.endpoint}/api/models/acme/sql-lora/revision/main")
        assert hub.connections == 1
