"""The way through proxies: which one is asked, with which password, and what it sees."""

import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator

import pytest

from lora_cli.errors import Unreachable, UsageError
from tests.hub_server import Hub
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
    assert "proxy-authorization" not in proxy.asked[0].lower()


def test_a_proxy_over_tls_is_told_its_password_and_the_way_in_tls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy("me:secret")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)

    def encrypted(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as stream:
            proxy(stream)

    with server(serve_tls) as origin, server(encrypted) as address:
        monkeypatch.setenv("ALL_PROXY", f"https://me:secret@{address}")
        with pytest.raises(Unreachable, match="certificate of") as caught:
            ask("http://hub.invalid:81/api")
        assert proxy.asked == []
        assert "secret" not in caught.value.message + caught.value.hint
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        forget_environment()
        assert ask("http://hub.invalid:81/api") == {}
        assert ask(f"https://{origin}/api", "hf_secret") == {}
    assert [asked.split(" HTTP/")[0] for asked in proxy.asked] == ["GET http://hub.invalid:81/api", f"CONNECT {origin}"]
    assert all("proxy-authorization: basic" in asked.lower() and "hf_secret" not in asked for asked in proxy.asked)


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
        with pytest.raises(Unreachable, match=r"proxy did not forward the request to hub\.invalid") as caught:
            ask("https://hub.invalid")
    assert "HTTPS_PROXY" in caught.value.hint
    assert "secret" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("names", ["*", "127.0.0.1", "example.org, 127.0.0.1"])
def test_no_proxy_goes_straight(monkeypatch: pytest.MonkeyPatch, hub: Hub, names: str) -> None:
    hub.add("acme/sql-lora", {"adapter_config.json": "{}"})
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", names)
    assert ask(f"{hub.endpoint}/api/models/acme/sql-lora/revision/main")


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "https://", "http://", "http://127.0.0.1:x"])
def test_a_proxy_that_cannot_be_used_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(UsageError, match="cannot be used") as caught:
        ask("http://hub.invalid")
    assert "http://HOST:PORT" in caught.value.hint
