"""The transport: which connections are used again, which certificates are trusted, and the way through proxies."""

import os
import socket
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from lora_cli.errors import LoraCliError, Unreachable
from tests.hub_server import Hub
from tests.sources.raw_servers import ACME, CERTIFICATE, OK, ask, at, forget_environment, head, serve_tls, server

LISTED = ["adapter_config.json"]


@pytest.fixture(autouse=True)
def _a_fresh_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("SSL_CERT")]:
        monkeypatch.delenv(name)
    forget_environment()
    yield
    forget_environment()


def answer_all(connection: socket.socket) -> None:
    while head(connection):
        connection.sendall(OK)


def test_a_certificate_is_trusted_by_name_by_folder_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hashed = ["openssl", "x509", "-hash", "-noout", "-in", str(CERTIFICATE)]
    name = subprocess.run(hashed, capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / f"{name}.0").write_bytes(CERTIFICATE.read_bytes())
    with server(serve_tls) as origin:
        for variable, value in (("SSL_CERT_FILE", CERTIFICATE), ("SSL_CERT_DIR", tmp_path)):
            with monkeypatch.context() as patch:
                patch.setenv(variable, str(value))
                forget_environment()
                assert ask(f"https://{origin}") == LISTED
        for nothing in ("", "/nowhere/ca.pem"):
            monkeypatch.setenv("SSL_CERT_FILE", nothing)
            forget_environment()
            with pytest.raises(Unreachable, match=r"certificate of 127\.0\.0\.1:\d+ is not trusted") as caught:
                at(f"https://{origin}", retries=1).resolve(ACME)
            assert ("SSL_CERT_FILE" in caught.value.hint, "tried" in caught.value.message) == (True, False)


def test_a_child_does_not_speak_on_its_parents_connections(hub: Hub) -> None:
    hub.add(ACME.location, dict.fromkeys(LISTED, "{}"))
    assert ask(hub.endpoint) == LISTED
    child = os.fork()
    if child == 0:
        os._exit(0 if ask(hub.endpoint) == LISTED else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert ask(hub.endpoint) == LISTED
    assert hub.connections == 2


class Proxy:
    """A forward proxy that writes down what it is asked. To who does not say ``password`` it says that back."""

    def __init__(self, password: str = "") -> None:
        self.asked: list[str] = []
        self.password = password

    def __call__(self, client: socket.socket) -> None:
        request = head(client)
        self.asked.append(request)
        if self.password and b64encode(self.password.encode()).decode() not in request:
            client.sendall(f"HTTP/1.1 407 {' '.join(request.split())}\r\nContent-Length: 0\r\n\r\n".encode())
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
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(("name", "user"), [("http_proxy", "me:p@ss"), ("ALL_PROXY", "me:p@ss"), ("HTTP_PROXY", "")])
def test_a_proxy_of_the_environment_is_asked_with_its_own_password(
    name: str, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(user)
    with server(proxy) as address, server(answer_all) as near:
        monkeypatch.setenv(name, f"http://me:p%40ss@{address}" if user else address)
        monkeypatch.setenv("NO_PROXY", "example.org, 127.0.0.1")
        assert ask("http://hub.invalid:81/a") == ask(f"http://{near}") == LISTED
    assert len(proxy.asked) == 1
    line, host = proxy.asked[0].split("\r\n")[:2]
    assert line.startswith("GET http://hub.invalid:81/a/api/models/acme/sql/")
    assert host == "Host: hub.invalid:81"
    assert ("proxy-authorization" in proxy.asked[0].lower()) == bool(user)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_through_a_tunnel_the_proxy_sees_nothing_but_the_host(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One over TLS is told its password and the way in TLS alone."""
    proxy = Proxy("me:secret")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with server(serve_tls) as origin, server(proxy if scheme == "http" else partial(serve_tls, then=proxy)) as address:
        monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://me:secret@{address}")
        with pytest.raises(Unreachable, match="certificate of"):
            ask(f"https://{origin}")
        assert len(proxy.asked) == (1 if scheme == "http" else 0)
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        forget_environment()
        assert ask(f"https://{origin}") == LISTED
    assert proxy.asked[-1].startswith(f"CONNECT {origin} HTTP/1.")
    assert "proxy-authorization: basic" in proxy.asked[-1].lower()
    assert not any("hf_secret" in asked or "/api" in asked for asked in proxy.asked)


@pytest.mark.parametrize("proxy", ["http://me:secret@{}", "socks5://me:secret@{}", "http://me:secret@127.0.0.1:x"])
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(Proxy("other")) as address:
        monkeypatch.setenv("HTTPS_PROXY", proxy.format(address))
        with pytest.raises(LoraCliError, match=r"hub\.invalid") as caught:
            ask("https://hub.invalid")
    assert "HTTPS_PROXY" in caught.value.hint
    assert not any(one in f"{caught.value} {caught.value.hint}" for one in ("secret", "bWU6c2VjcmV0"))
