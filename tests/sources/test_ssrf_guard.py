"""A redirect leads from the open network to the open network, and never into somebody's own."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_cli.core.reference import AdapterRef, Scheme
from lora_cli.documents.policy import Policy
from lora_cli.errors import LoraCliError, Refused, Unreachable
from lora_cli.settings import Settings
from lora_cli.sources import ssrf_guard
from lora_cli.sources.hub import HubSource
from lora_cli.sources.registry import open_source
from lora_cli.sources.ssrf_guard import Reach, allows_private, guard, reach_of
from lora_cli.sources.transport import send
from tests.hub_content import Content
from tests.hub_server import Hub
from tests.sources.raw_servers import forget_environment

FILES: dict[str, Content] = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(3_000_000)}
ACME = AdapterRef("hf", "acme/sql-lora")
NEARNESS = {
    Reach.PUBLIC: ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808",
                   "cdn.org"],
    Reach.PRIVATE: ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fc00::1", "fd12:3456::1",
                    "fec0::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "198.18.0.1"],
    Reach.LOOPBACK: ["127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
                     "localhost", "LOCALHOST.", "127.1", "2130706433", "\uff11\uff127.0.0.1"],
    Reach.LINK_LOCAL: ["169.254.169.254", "169.254.170.2", "fe80::1", "fe80::1%eth0", "fd00:ec2::254",
                       "100.100.100.200", "168.63.129.16", "0.0.0.0", "0.1.2.3", "::", "::ffff:169.254.169.254",
                       "2002:a9fe:a9fe::", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1",
                       "2852039166", "0xa9fea9fe", "0251.0376.0xa9fe", "169.254.169.254."],
}  # fmt: skip


@pytest.mark.parametrize(("reach", "address"), [(reach, a) for reach, all_ in NEARNESS.items() for a in all_])
def test_an_address_is_as_near_as_it_is_however_it_is_written(reach: Reach, address: str) -> None:
    assert reach_of(address) is reach


FOLLOWED = [
    ("8.8.8.8", "1.1.1.1", False), ("10.0.0.1", "8.8.8.8", False), ("10.0.0.1", "192.168.0.7", False),
    ("127.0.0.1", "127.0.0.1", False), ("127.0.0.1", "10.0.0.1", False), ("169.254.7.7", "169.254.7.7", False),
    ("", "8.8.8.8", False), ("8.8.8.8", "10.0.0.1", True), ("8.8.8.8", "127.0.0.1", True),
]  # fmt: skip
REFUSED = [
    ("8.8.8.8", "10.0.0.1", False), ("8.8.8.8", "127.0.0.1", False), ("8.8.8.8", "169.254.169.254", False),
    ("10.0.0.1", "127.0.0.1", False), ("10.0.0.1", "169.254.169.254", False), ("", "10.0.0.1", False),
    ("127.0.0.1", "169.254.169.254", False), ("169.254.7.7", "169.254.169.254", False),
    ("169.254.7.7", "10.0.0.1", False), ("8.8.8.8", "169.254.169.254", True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sender", "target", "allowed", "follows"),
    [(*case, True) for case in FOLLOWED] + [(*case, False) for case in REFUSED],
)
def test_nothing_leads_nearer_than_it_is_itself(sender: str, target: str, allowed: bool, follows: bool) -> None:
    judge = guard(allowed, sender, "a: hub redirects to x")
    if follows:
        judge(target)
    else:
        with pytest.raises(Refused, match="allow_private_redirects") as caught:
            judge(target)
        assert target in str(caught.value)
        assert caught.value.hint


@pytest.mark.parametrize(
    ("setting", "said", "allowed"),
    [
        (False, (), False), (True, (), True), (False, (None, None), False), (True, (None,), True),
        (False, (True, None), True), (True, (True, False), False), (True, (False,), False),
    ],
)  # fmt: skip
def test_a_policy_that_says_no_wins(
    tmp_path: Path, setting: bool, said: tuple[bool | None, ...], allowed: bool
) -> None:
    policies = tuple(Policy() if word is None else Policy(allow_private_redirects=word) for word in said)
    settings = Settings(tmp_path, allow_private_redirects=setting, policies=policies)
    assert allows_private(settings) is allowed


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """What listens at 127.0.0.1 is on the open network, as far as anybody is concerned."""
    real = reach_of
    monkeypatch.setattr(ssrf_guard, "reach_of", lambda a: Reach.PUBLIC if a == "127.0.0.1" else real(a))


def fails(settings: Settings, ref: AdapterRef = ACME) -> LoraCliError:
    with pytest.raises(LoraCliError) as caught:
        read_all(HubSource(settings), ref)
    return caught.value


def read_all(source: HubSource, ref: AdapterRef) -> list[int]:
    revision = source.resolve(ref)
    return [sum(map(len, source.read(revision, file, 0, None))) for file in revision.files]


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("place", ["/revision/", "/resolve/"])
@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("127.0.0.2", "this machine itself"),
        ("[::1]", "this machine itself"),
        ("2130706434", "127.0.0.2, this machine itself"),
        ("0x7f.2", "127.0.0.2, this machine itself"),
        ("10.1.2.3", "an address of a private network"),
        ("169.254.169.254", "of a cloud's credentials"),
        ("[::ffff:169.254.169.254]", "of a cloud's credentials"),
    ],
)
def test_the_open_network_does_not_lead_into_a_private_one(
    hub: Hub, settings: Settings, place: str, host: str, said: str
) -> None:
    hub.add("acme/sql-lora", FILES)
    hub.fault(place, times=-1, status=302, headers={"Location": f"http://{host}:9/secret?key=1"})
    error = fails(settings)
    assert isinstance(error, Refused)
    assert error.exit_code == 1
    assert said in str(error)
    assert "127.0.0.1" in str(error)
    assert "(allow_private_redirects)" in str(error)
    assert "key=1" not in str(error)


@pytest.mark.parametrize(("scheme", "place"), [("https", "169.254.169.254/x"), ("oci", "169.254.169.254/x/y:1")])
def test_a_reference_leads_to_no_link_local_address(settings: Settings, scheme: Scheme, place: str) -> None:
    with pytest.raises(Refused, match=r"it leads to 169\.254\.169\.254, a link-local address"):
        open_source(scheme, settings).resolve(AdapterRef(scheme, place))


@pytest.mark.usefixtures("far")
def test_nothing_is_sent_there_and_a_setting_allows_it(hub: Hub, settings: Settings) -> None:
    hub.add("acme/sql-lora", FILES)
    with socket.create_server(("127.0.0.2", 0)) as inside:
        inside.settimeout(0.2)
        where = f"http://127.0.0.2:{inside.getsockname()[1]}/"
        hub.fault("/revision/", times=-1, status=302, headers={"Location": where})
        assert isinstance(fails(settings), Refused)
        with pytest.raises(TimeoutError):
            inside.accept()
        error = fails(replace(settings, allow_private_redirects=True, timeout_s=0.5, retries=0))
        assert "sent no data" in str(error)
        inside.accept()[0].close()


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]], ids=["one", "two"])
def test_only_addresses_that_were_judged_are_connected_to(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    """A name may be given another address at any time: it is resolved once, and each address is judged."""
    hub.add("acme/sql-lora", FILES)
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
        where = f"http://cdn.example:{inside.getsockname()[1]}/"
        hub.fault("/revision/", times=-1, status=302, headers={"Location": where})
        error = fails(replace(settings, retries=0))
        assert "cdn.example" in str(error)
        assert isinstance(error, Unreachable if len(addresses) == 1 else Refused)
        assert ("at 127.0.0.2" in str(error)) == (len(addresses) == 2)
        with pytest.raises(TimeoutError):
            inside.accept()
        assert asked == ["cdn.example"]


def test_a_connection_that_is_open_already_is_judged_too(hub: Hub) -> None:
    hub.add("acme/sql-lora", FILES)
    url = f"{hub.endpoint}/api/models/acme/sql-lora"
    send(url, {}, 5).close()
    with pytest.raises(Refused, match=r"at 127\.0\.0\.1, this machine itself"):
        send(url, {}, 5, guard(False, "8.8.8.8", "a: hub redirects to localhost"))
    assert (hub.connections, hub.count()) == (1, 1)


@pytest.mark.usefixtures("far")
def test_a_proxy_is_told_a_name_and_never_an_address_inside(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/sql-lora", FILES)
    hub.fault("/revision/", times=-1, status=302, headers={"Location": "http://169.254.169.254/latest"})
    monkeypatch.setenv("http_proxy", hub.endpoint)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    forget_environment()
    error = fails(settings)
    monkeypatch.undo()
    forget_environment()
    assert isinstance(error, Refused)
    assert not any("169.254" in request.target for request in hub.requests)


IN_A_NETWORK = """
import sys
from pathlib import Path
from dataclasses import replace
from lora_cli.documents.policy import Policy
from lora_cli.core.reference import AdapterRef
from lora_cli.errors import Refused
from lora_cli.settings import Settings
from lora_cli.sources.transport import send
from lora_cli.sources.hub import HubSource
from tests import hub_server
real = hub_server.ThreadingHTTPServer.__init__
address = iter(["8.8.8.8", sys.argv[1], "127.0.0.1"])
def listen(self, where, handler):
    self.at = next(address)
    real(self, (self.at, where[1]), handler)
hub_server.ThreadingHTTPServer.__init__ = listen
hub = hub_server.Hub()
hub.endpoint, hub.cdn = (f"http://{s.at}:{s.server_port}" for s in (hub._api, hub._cdn))
with hub:
    hub.add("acme/sql", {"adapter_model.safetensors": b"weights"})
    source = HubSource(Settings(Path("/nowhere"), hub_endpoint=hub.endpoint, retries=0))
    revision = source.resolve(AdapterRef("hf", "acme/sql"))
    try:
        print(b"".join(source.read(revision, revision.files[0], 0, None)).decode())
    except Refused as error:
        print(error, hub.count("GET cdn"))
"""


@pytest.mark.parametrize(
    ("storage", "said"),
    [("1.1.1.1", "weights\n"), ("10.9.8.7", "redirects to 10.9.8.7"), ("127.0.0.1", "this machine itself")],
)
def test_in_a_network_with_public_addresses(storage: str, said: str) -> None:
    """A network of its own, in which the Hub is at a public address."""
    up = f"ip link set lo up && ip addr add 8.8.8.8/32 dev lo && ip addr add {storage}/32 dev lo 2>/dev/null;"
    command = ["unshare", "-rn", "sh", "-c", f'{up} exec "$@"', "sh"]
    try:
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
            pytest.skip("this user may not make a network")
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    program = [sys.executable, "-c", IN_A_NETWORK, storage]
    house = Path(__file__).parents[2]
    done = subprocess.run([*command, *program], capture_output=True, text=True, check=True, cwd=house, env=os.environ)
    assert said in done.stdout
    assert said == "weights\n" or done.stdout.endswith(" 0\n")
