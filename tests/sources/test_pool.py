"""The pool of connections: what is used again, what is not, and the way through proxies and certificates."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.errors import Unreachable
from lora_cli.sources import pool, route
from lora_cli.sources.http import Http, Piece, get_bytes
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
        route.tls.cache_clear()
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


def test_a_connection_over_which_more_came_than_was_said_is_not_used_again() -> None:
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        connections.append(connection)
        while head(connection):
            connection.sendall(OK + b"HTTP/1.1 200 .\r\nContent-Length: 7\r\n\r\n[1,2,3]")

    with server(serve) as address:
        for number in range(2):
            assert ask(f"http://{address}") == {}
            assert len(connections) == number + 1


@pytest.mark.parametrize("token", ["one\r\nX: two", "one\ntwo", "one\0two"])
def test_a_header_never_ends_early(token: str) -> None:
    with pytest.raises(Unreachable, match="the exchange with"):
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
            read = get_bytes(Http(f"http://{address}", 5, 0), f"http://{address}/x", Piece(0, None, 5), "weights")
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
        answers = [pool.get(f"http://{address}/", {}, 5, 5) for _ in range(pool.MOST_IDLE)]
        for answer in answers:
            answer.read(2)
            answer.close()
        for _ in range(3):
            assert ask(f"{hub.endpoint}/api/models/acme/sql-lora/revision/main")
        assert hub.connections == 1
