"""The HTTP client and answers that it did not ask for: redirects, other ranges, bodies that end early, certificates."""

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from lora_cli.errors import Corrupt, LoraCliError, Refused, Unreachable
from lora_cli.sources.http import Http, Piece, get_bytes, redirect_target
from lora_cli.sources.http_json import get_json
from lora_cli.sources.retries import Retries
from tests.hub_server import Hub
from tests.sources.http_client import NAME, WEIGHTS, Client
from tests.sources.raw_servers import raw_server


@pytest.fixture
def client(hub: Hub) -> Client:
    hub.add("acme/sql-lora", {"adapter_model.safetensors": WEIGHTS, "adapter_config.json": "{}"})
    return Client(hub)


CERTIFICATE = Path(__file__).parent / "tls/localhost.pem"


def test_a_link_that_is_stale_when_it_is_handed_out_is_asked_for_again(client: Client) -> None:
    client.hub.fault("GET cdn", status=403)
    assert client.read() == WEIGHTS
    assert client.hub.count("/resolve/") == 2


def test_a_redirect_loop_ends(client: Client) -> None:
    client.hub.fault("", status=302, headers={"Location": f"/{NAME}"}, times=-1)
    with pytest.raises(Unreachable, match="more than 5 times"):
        client.read()
    assert client.hub.count() == 6


@pytest.mark.parametrize(
    "location",
    ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://user:secret@127.0.0.1/", "http://[::1", "//:0/"],
)
def test_a_redirect_to_no_web_address_is_not_followed(client: Client, location: str) -> None:
    client.hub.fault("", status=302, headers={"Location": location}, times=-1)
    error = client.fails()
    assert isinstance(error, Unreachable)
    assert str(error).startswith("weights: ")
    assert "an invalid web address" in str(error) or "communication with" in str(error)
    assert client.hub.count() == 1
    assert "secret" not in str(error)


def test_a_redirect_may_gain_encryption_but_not_lose_it() -> None:
    assert redirect_target("http://hub/a", "https://hub/b", "sql") == "https://hub/b"
    assert redirect_target("https://hub/a/b", "../c?d=e", "sql") == "https://hub/c?d=e"
    with pytest.raises(Refused, match="sql: hub redirects from https to http, at cdn:8080"):
        redirect_target("https://hub/a", "http://cdn:8080/b?sig=secret", "sql")


def test_a_signature_is_not_in_an_error(client: Client) -> None:
    client.hub.fault("GET cdn", status=500, times=-1)
    error = client.fails()
    assert "sig=" not in f"{error} {error.hint}"
    assert client.hub.signature("") not in str(error)


RANGE = b"HTTP/1.1 206 .\r\nContent-Length: 5\r\nContent-Range: bytes "


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (RANGE + b"3-7/100\r\n\r\n01234", Corrupt, "sent others"),
        (RANGE + b"2-6/99\r\n\r\n01234", Corrupt, "99 bytes now, but 100"),
        (RANGE + b"two\r\n\r\n01234", Corrupt, "sent others"),
        (b"HTTP/1.1 206 .\r\nContent-Length: 5\r\n\r\n01234", Corrupt, "sent others"),
        (RANGE.replace(b"5", b"9") + b"2-6/100\r\n\r\n012345678", Corrupt, "more bytes than requested"),
        (b"HTTP/1.1 200 .\r\nContent-Length: 7\r\n\r\n0123456", Corrupt, "7 bytes now"),
        (b"HTTP/1.1 204 .\r\n\r\n", Unreachable, "answered 204"),
        (b"HTTP/1.1 200 .\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\n0", Unreachable, "compressed"),
        (b"nonsense", Unreachable, "was cut"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", Unreachable, "the response is not HTTP/1.1"),
        (b"", Unreachable, "was cut"),
        (b"HTTP/1.1 200 .\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n", Unreachable, "was cut"),
    ],
)
def test_an_answer_that_is_not_the_range_is_not_taken_for_it(
    answer: bytes, kind: type[LoraCliError], said: str
) -> None:
    with raw_server(answer) as endpoint, pytest.raises(kind, match=said):
        list(get_bytes(Http(endpoint, 2, Retries(0)), f"{endpoint}/x", Piece(2, 7, 100), "weights"))


def test_a_whole_file_longer_than_listed_is_noticed_without_its_length() -> None:
    with raw_server(b"HTTP/1.1 200 .\r\nConnection: close\r\n\r\n0123456") as endpoint:
        read = get_bytes(Http(endpoint, 2, Retries(0)), f"{endpoint}/x", Piece(0, None, 5), "weights")
        with pytest.raises(Corrupt, match="more bytes than requested"):
            list(read)


def test_a_body_that_ends_early_without_saying_so_is_gone_on_with() -> None:
    first = b"HTTP/1.1 200 .\r\nConnection: close\r\n\r\n012"
    rest = b"HTTP/1.1 206 .\r\nContent-Length: 2\r\nContent-Range: bytes 3-4/5\r\n\r\n34"
    with raw_server(first, rest) as endpoint:
        http = Http(endpoint, 2, Retries(1, lambda _: None))
        assert b"".join(get_bytes(http, f"{endpoint}/x", Piece(0, None, 5), "weights")) == b"01234"


@contextmanager
def tls_server() -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                    with connection, context.wrap_socket(connection, server_side=True) as stream:
                        stream.recv(65536)
                        stream.sendall(b"HTTP/1.1 200 .\r\nContent-Length: 2\r\n\r\n{}")
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_certificate_that_is_not_trusted_is_refused_at_once_and_trusted_by_name() -> None:
    with tls_server() as endpoint:
        with pytest.raises(Unreachable, match=r"certificate of 127\.0\.0\.1:\d+ is not trusted") as caught:
            get_json(Http(endpoint, 5, Retries(5, lambda _: pytest.fail("waited"))), endpoint, "info")
        assert "SSL_CERT_FILE" in caught.value.hint
        program = """
import sys
from lora_cli.sources.http_json import *
from lora_cli.sources.retries import Retries
print(get_json(Http(sys.argv[1], 5, Retries(0)), sys.argv[1], "").value)
"""
        command = [sys.executable, "-W", "error", "-c", program, endpoint]
        done = subprocess.run(
            command, env={"SSL_CERT_FILE": str(CERTIFICATE)}, capture_output=True, text=True, check=True
        )
        assert done.stdout == "{}\n"
