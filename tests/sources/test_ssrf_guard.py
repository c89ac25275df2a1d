"""A redirect leads from the open network to the open network, and never into somebody's own."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from lora_cli.errors import LoraCliError, Refused, Unreachable
from lora_cli.refs.reference import AdapterRef, Scheme
from lora_cli.settings import Settings
from lora_cli.sources import http
from lora_cli.sources.registry import open_source
from tests.hub_server import Hub
from tests.sources.asking import error_of
from tests.sources.raw_servers import ACME, forget_environment

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
