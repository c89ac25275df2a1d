"""The HTTP client on a bad day: what it tries again, how long it waits, what it never follows or reads."""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from functools import partialmethod
from typing import Any

import pytest

from lora_cli.errors import Corrupt, LoraCliError, Refused, Unreachable
from lora_cli.refs.reference import AdapterRef, Scheme
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.settings import Settings
from lora_cli.sources import Retries, http
from lora_cli.sources.registry import open_source
from tests.hub_server import Hub
from tests.sources.asking import error_of
from tests.sources.raw_servers import ACME, CERTIFICATE, at, forget_environment, head, server
from tests.web_server import Site, WebServer

WEIGHTS = bytes(range(256)) * 4000
FILE = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def _files(hub: Hub) -> None:
    hub.add(ACME.location, {FILE: WEIGHTS})


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would be waited between tries: nobody waits."""
    found = list[float]()
    monkeypatch.setattr(Retries, "__init__", partialmethod(Retries.__init__, pause=found.append))
    return found


def fetch(hub: Hub, *ranges: tuple[int, int | None], **settings: Any) -> bytes:
    source = at(hub.endpoint, **{"retries": 5, **settings})
    revision = source.resolve(ACME)
    return b"".join(b"".join(source.read(revision, revision.files[0], *one)) for one in ranges or [(0, None)])


@pytest.mark.parametrize(("status", "place"), [(408, "/revision/"), (429, "/resolve/"), (503, "GET cdn")])
def test_a_storm_is_waited_out(hub: Hub, waits: list[float], status: int, place: str) -> None:
    hub.fault(place, status=status, times=3)
    assert fetch(hub) == WEIGHTS
    assert len(waits) == 3
    assert waits[0] <= 0.5 < waits[2] <= 2


@pytest.mark.parametrize(
    ("fault", "retries", "said", "asked"),
    [
        ({"status": 503}, 5, r"answered 503 \(tried 6 times\)", 6),
        ({"status": 429, "headers": {"Retry-After": "3600"}}, 5, r"requests a wait of 3600 s", 1),
        ({"delay_s": 30}, 0, r"sent no data for 0\.3 s", 1),
        ({"status": 302, "headers": {"Location": f"/{FILE}"}}, 5, "more than 5 times", 6),
        ({"status": 200, "body": "<html>login</html>"}, 1, "not JSON", 2),
        *[
            ({"status": 302, "headers": {"Location": location}}, 5, "an invalid web address", 1)
            for location in ("ftp://127.0.0.1/x", "file:///etc/passwd", "http://u:secret@h/", "http://[::1", "//:0/")
        ],
    ],
)
@pytest.mark.usefixtures("waits")
def test_what_does_not_end_is_given_up(hub: Hub, fault: dict[str, Any], retries: int, said: str, asked: int) -> None:
    hub.fault("", times=-1, **fault)
    with pytest.raises(Unreachable, match=said) as caught:
        fetch(hub, retries=retries, timeout_s=0.3)
    assert hub.count() == asked
    assert caught.value.message.startswith(str(ACME))
    assert "secret" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(("said", "least"), [("12", 12), ("date", 190), ("soon", 0.25), ("9" * 5000, 0.25)])
def test_what_the_server_asks_is_what_is_waited(hub: Hub, waits: list[float], said: str, least: float) -> None:
    date = formatdate(time.time() + 195, usegmt=True)
    hub.fault("/revision/", status=429, times=2, headers={"Retry-After": date if said == "date" else said})
    assert fetch(hub) == WEIGHTS
    assert least <= waits[0] <= max(0.5, least * 1.15 + 0.5)
    assert waits[0] != waits[1], "chance keeps those who wait apart"


def test_a_stream_goes_on_where_it_was_and_only_tries_that_bring_nothing_count(hub: Hub, waits: list[float]) -> None:
    hub.fault("GET cdn", cut_at=90_000, times=-1)
    assert fetch(hub, retries=1) == WEIGHTS
    assert len(waits) == len(WEIGHTS) // 90_000 == hub.count("GET cdn") - 1
    hub.faults.clear()
    hub.fault("GET cdn", cut_at=0, times=-1)
    with pytest.raises(Unreachable, match="was cut"):
        fetch(hub, retries=2)


def test_a_link_is_asked_for_once_and_again_when_it_does_not_work_any_more(hub: Hub, waits: list[float]) -> None:
    source = at(hub.endpoint, retries=1)
    revision = source.resolve(ACME)

    def reads(start: int) -> int:
        """How many requests the Hub has had for links."""
        piece = b"".join(source.read(revision, revision.files[0], start, start + 10))
        assert piece == WEIGHTS[start : start + 10]
        return hub.count("/resolve/")

    assert [reads(start) for start in (0, 10, 20)] == [1, 1, 1]
    hub.expire_signatures()
    assert reads(30) == 2
    assert not waits
    hub.fault("GET cdn", status=403, times=2)  # the fresh one does not work either
    assert reads(50) == 4
    hub.fault("GET cdn", status=500, times=-1)
    with pytest.raises(Unreachable) as caught:
        reads(60)
    assert "sig=" not in f"{caught.value.message} {caught.value.hint}"


def test_a_redirect_may_gain_encryption_but_not_lose_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    forget_environment()
    with WebServer(Site({"a/adapter_config.json": b"{}"}), CERTIFICATE) as safe, WebServer(Site()) as plain:
        plain.site.redirect = lambda target: f"https://{safe.place}{target}"
        assert open_source("http", settings).resolve(AdapterRef("http", f"{plain.place}/a")).files
        safe.site.redirect = lambda target: f"http://{plain.place}{target}?sig=secret"
        with pytest.raises(Refused, match=f"redirects from https to http, at {plain.place}, ") as caught:
            open_source("https", settings).resolve(AdapterRef("https", f"{safe.place}/a"))
        assert "secret" not in caught.value.message
    forget_environment()


OK_HEAD = b"HTTP/1.1 200 .\r\n"
RANGE = b"HTTP/1.1 206 .\r\nContent-Length: 5\r\nContent-Range: bytes "
CHUNKED = OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (RANGE + b"3-7/100\r\n\r\n01234", Corrupt, "sent others"),
        (RANGE.replace(b"5", b"9") + b"2-6/100\r\n\r\n012345678", Corrupt, "more bytes than requested"),
        (OK_HEAD + b"Content-Length: 7\r\n\r\n0123456", Corrupt, "7 bytes now"),
        (OK_HEAD + b"Content-Encoding: gzip\r\nContent-Length: 100\r\n\r\n0", Unreachable, "compressed"),
        (CHUNKED + b"2\r\n01\r\n", Unreachable, "was cut"),
    ],
)
def test_an_answer_that_is_not_the_range_is_not_taken_for_it(
    answer: bytes, kind: type[LoraCliError], said: str
) -> None:
    def serve(connection: socket.socket) -> None:
        head(connection)
        connection.sendall(answer)

    file = RemoteFile(FILE, 100)
    with server(serve) as address, pytest.raises(kind, match=said):
        list(at(f"http://{address}").read(Revision(ACME, "0" * 40, (file,)), file, 2, 7))


PLACES = {
    "private": ["10.0.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "[fd12:3456::1]", "[::ffff:10.0.0.1]",
                "[64:ff9b::a00:1]", "[2002:a00:1::]", "198.18.0.1", "240.0.0.1", "0.0.0.0", "127.0.0.2", "[::1]",
                "2130706434", "0x7f.2", "[::ffff:127.0.0.2]"],
    "link-local": ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16",
                   "2852039166", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::]"],
}  # fmt: skip


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """What listens at 127.0.0.1 is on the open network, as far as anybody is concerned; or as a test says."""
    real, known = http.is_public, {"127.0.0.1"}
    monkeypatch.setattr(http, "is_public", lambda address: address in known or real(address))
    forget_environment()
    yield known
    forget_environment()


def redirected(hub: Hub, settings: Settings, to: str) -> LoraCliError:
    """What comes of a redirect to another server, where nobody answers."""
    hub.fault("", times=-1, status=302, headers={"Location": f"http://{to}/secret?key=1"})
    source = open_source("hf", replace(settings, timeout_s=0.2, retries=0))
    return error_of(lambda: source.resolve(ACME))


@pytest.mark.parametrize(("kind", "host"), [(kind, host) for kind, hosts in PLACES.items() for host in hosts])
@pytest.mark.usefixtures("public")
def test_the_open_network_does_not_lead_into_a_private_one(hub: Hub, settings: Settings, kind: str, host: str) -> None:
    error = redirected(hub, settings, f"{host}:9")
    assert isinstance(error, Refused)
    assert f", a {kind} address" in error.message
    assert "127.0.0.1" in error.message
    assert "key=1" not in error.message


HERE, CLOUD, OPEN = "127.0.0.2", "169.254.169.254", "127.0.0.3"


@pytest.mark.parametrize(
    ("are_public", "target", "setting", "follows"),
    [
        ({"127.0.0.1", OPEN}, OPEN, False, True),
        (set(), HERE, False, True),
        (set(), CLOUD, True, False),
        ({"127.0.0.1"}, HERE, False, False),
        ({"127.0.0.1"}, HERE, True, True),
        ({"127.0.0.1"}, CLOUD, True, False),
    ],
)
def test_a_private_network_leads_anywhere_and_a_public_one_where_the_settings_say(
    hub: Hub, settings: Settings, public: set[str], are_public: set[str], target: str, setting: bool, follows: bool
) -> None:
    """But nothing is ever link-local."""
    public.clear()
    public.update(are_public)
    error = redirected(hub, replace(settings, allow_private_redirects=setting), f"{target}:9")
    assert isinstance(error, Unreachable if follows else Refused)
    assert error.hint


@pytest.mark.parametrize(("scheme", "place"), [("https", "169.254.169.254/x"), ("oci", "169.254.169.254/x/y:1")])
def test_a_reference_leads_to_no_link_local_address(settings: Settings, scheme: Scheme, place: str) -> None:
    with pytest.raises(Refused, match=r"it leads to 169\.254\.169\.254, a link-local address"):
        open_source(scheme, settings).resolve(AdapterRef(scheme, place))


@pytest.mark.usefixtures("public")
@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]], ids=["one", "two"])
def test_only_addresses_that_were_judged_are_connected_to(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    """A name may be given another address at any time: it is resolved once, and each address is judged."""
    real, asked = socket.getaddrinfo, []

    def rebound(host: Any, *args: Any, **options: Any) -> Any:
        if host != "cdn.example":
            return real(host, *args, **options)
        asked.append(host)
        now = addresses if len(asked) == 1 else ["127.0.0.2"]
        return [found for address in now for found in real(address, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    with socket.create_server(("127.0.0.2", 0)) as inside:
        inside.settimeout(0.2)
        error = redirected(hub, settings, f"cdn.example:{inside.getsockname()[1]}")
        assert isinstance(error, Unreachable if len(addresses) == 1 else Refused)
        assert ("at 127.0.0.2" in str(error)) == (len(addresses) == 2)
        with pytest.raises(TimeoutError):
            inside.accept()
    assert asked == ["cdn.example"]


@pytest.mark.usefixtures("public")
def test_a_proxy_is_told_a_name_and_never_an_address_inside(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", hub.endpoint)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert isinstance(redirected(hub, settings, "169.254.169.254"), Refused)
    assert not any("169.254" in request.target for request in hub.requests)
