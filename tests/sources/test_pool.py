"""The pool of connections: what is used again, what is not, and the way through proxies and certificates."""

import os
import socket
import ssl
import subprocess
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from lora_cli.errors import Unreachable, UsageError
from lora_cli.sources import pool, route
from lora_cli.sources.http import Http, Piece, get_bytes, get_json
from tests.hub_server import Hub

CERTIFICATE = Path(__file__).parent / "tls/localhost.pem"
OK = b"HTTP/1.1 200 .\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(autouse=True)
def _a_fresh_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("SSL_CERT")]:
        monkeypatch.delenv(name)
    route.route_to.cache_clear()
    route.tls.cache_clear()
    yield
    route.route_to.cache_clear()
    route.tls.cache_clear()


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
        pool._idle.leave_to_parent()
        for thread in threads:
            thread.join()


def head(connection: socket.socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError
        data += piece
    return data.decode()


class Proxy:
    """A forward proxy that writes down what it is asked, and lets only those in who say ``password``."""

    def __init__(self, password: str = "") -> None:
        self.asked: list[str] = []
        self.password = password

    def __call__(self, client: socket.socket) -> None:
        request = head(client)
        self.asked.append(request)
        if self.password and b64encode(self.password.encode()).decode() not in request:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        elif request.startswith("CONNECT "):
            host, _, port = request.split()[1].partition(":")
            with socket.create_connection((host, int(port))) as origin:
                client.sendall(b"HTTP/1.1 200 .\r\n\r\n")
                back = threading.Thread(target=_copy, args=(origin, client))
                back.start()
                _copy(client, origin)
                back.join()
        else:
            client.sendall(OK)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


def serve_tls(connection: socket.socket) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with context.wrap_socket(connection, server_side=True) as stream:
        stream.recv(65536)
        stream.sendall(OK)


def ask(endpoint: str, token: str = "") -> object:
    return get_json(Http(endpoint, 5, 0, token=token), endpoint, "info").value


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_asked_with_its_own_password(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    proxy = Proxy("me:p@ss")
    with server(proxy) as address:
        monkeypatch.setenv(name, f"http://me:p%40ss@{address}")
        assert ask("http://hub.invalid:81/api?a=b") == {}
    assert proxy.asked[0].startswith("GET http://hub.invalid:81/api?a=b HTTP/1.1\r\nHost: hub.invalid:81\r\n")


def test_a_proxy_without_a_scheme_and_without_a_user_is_one_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy()
    with server(proxy) as address:
        monkeypatch.setenv("HTTP_PROXY", address)
        assert ask("http://hub.invalid") == {}
    assert "Proxy-Authorization" not in proxy.asked[0]


def test_a_proxy_over_tls_is_refused_with_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "https://me:secret@proxy.invalid:3129")
    with pytest.raises(UsageError, match="spoken to over TLS") as caught:
        ask("https://hub.invalid")
    assert "http://HOST:PORT" in caught.value.hint
    assert "secret" not in caught.value.message + caught.value.hint


def test_through_a_tunnel_the_proxy_sees_nothing_but_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy("me:secret")
    with server(serve_tls) as origin, server(proxy) as address:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{address}")
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        assert ask(f"https://{origin}/api", "hf_secret") == {}
    assert proxy.asked[0].startswith(f"CONNECT {origin} HTTP/1.")
    assert "hf_secret" not in proxy.asked[0]
    assert "/api" not in proxy.asked[0]


def test_a_proxy_that_refuses_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(Proxy("other")) as address:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{address}")
        with pytest.raises(Unreachable, match=r"proxy did not pass the request on to hub\.invalid") as caught:
            ask("https://hub.invalid")
    assert "HTTPS_PROXY" in caught.value.hint
    assert "secret" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("names", ["*", "127.0.0.1", "example.org, 127.0.0.1"])
def test_no_proxy_goes_straight(monkeypatch: pytest.MonkeyPatch, hub: Hub, names: str) -> None:
    hub.add("acme/sql-lora", {"adapter_config.json": "{}"})
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", names)
    assert ask(f"{hub.endpoint}/api/models/acme/sql-lora/revision/main")


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "https://127.0.0.1:1", "http://", "http://127.0.0.1:x"])
def test_a_proxy_that_cannot_be_used_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(UsageError, match="cannot be used") as caught:
        ask("http://hub.invalid")
    assert "http://HOST:PORT" in caught.value.hint


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
