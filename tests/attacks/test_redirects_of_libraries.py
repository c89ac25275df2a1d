"""Servers that are asked through a library send it where it must not go: to another host, or into a private network."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import fsspec.config
import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.documents.policy import Policy
from lora_cli.errors import LoraCliError, Refused
from lora_cli.settings import Settings
from lora_cli.sources.http import Http, redirect_guard
from lora_cli.sources.registry import open_source
from lora_cli.sources.retries import Retries
from lora_cli.sources.ssrf_guard import bounds_of
from lora_cli.store import Store
from tests.answering import Reply, answering
from tests.bringing import fetch
from tests.making import write_adapter
from tests.planted import SECRET, Machine

ROOT = "/webhdfs/v1"


class Cluster:
    """A name node with an adapter, and where it sends whoever asks for an operation; "" for nowhere."""

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in write_adapter(folder / "sql").iterdir()}
        self.to: dict[str, str] = {}
        self.heard: list[BaseHTTPRequestHandler] = []

    def reply(self, request: BaseHTTPRequestHandler) -> Reply:
        self.heard.append(request)
        parts, asked = urlsplit(request.path), parse_qs(urlsplit(request.path).query)
        operation, name = asked["op"][0], parts.path.rpartition("/")[2]
        if target := self.to.get(operation):
            return 307, b"", {"Location": f"{target}{request.path}" if target.count("/") == 2 else target}
        if operation == "LISTSTATUS":
            return (
                200,
                json.dumps({"FileStatuses": {"FileStatus": [self.status(one) for one in self.files]}}).encode(),
                {},
            )
        if operation == "GETFILESTATUS":
            return 200, json.dumps({"FileStatus": self.status("" if name == "sql" else name)}).encode(), {}
        start = int(asked["offset"][0])
        return 200, self.files[name][start : start + int(asked["length"][0])], {}

    def status(self, name: str) -> dict[str, object]:
        kind = "FILE" if name else "DIRECTORY"
        return {"type": kind, "length": len(self.files.get(name, b"")), "modificationTime": 1, "pathSuffix": name}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@contextmanager
def two(cluster: Cluster) -> Iterator[tuple[AdapterRef, str, list[BaseHTTPRequestHandler]]]:
    """The adapter at the name node, the address of another server (the same files), and what that one heard."""
    other = Cluster.__new__(Cluster)
    other.files, other.to, other.heard = cluster.files, {}, []
    with answering(cluster.reply) as here, answering(other.reply) as there:
        yield AdapterRef("webhdfs", f"{here.removeprefix('http://')}/sql"), there, other.heard


def settings(tmp_path: Path, *policies: Policy) -> Settings:
    return Settings(tmp_path / "cache", timeout_s=5, retries=0, policies=policies)


def brought(ref: AdapterRef, how: Settings) -> dict[str, bytes]:
    snapshot = fetch(ref, open_source("webhdfs", how), Store(how.cache_dir), how)
    return {path.name: path.read_bytes() for path in snapshot.directory.iterdir()}


def test_a_data_node_gives_the_bytes_and_is_not_told_who_asks(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fsspec.config.conf, "webhdfs", {"user": "alice", "password": SECRET})
    with two(cluster) as (ref, there, heard):
        cluster.to["OPEN"] = there
        assert brought(ref, settings(tmp_path)) == cluster.files
        assert heard
        assert not any("Authorization" in request.headers for request in heard)
    assert all(request.headers["Authorization"].startswith("Basic ") for request in cluster.heard)


@pytest.mark.parametrize("operation", ["OPEN", "LISTSTATUS", "GETFILESTATUS"])
@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("other", "allow_hosts"),
        ("http://169.254.169.254", "allow_hosts"),
        ("http://alice:hunter2@127.0.0.1:9/x", "an invalid web address"),
        ("ftp://127.0.0.1/x", "InvalidSchema"),
    ],
)
def test_a_policy_of_hosts_holds_where_a_name_node_sends_us(
    cluster: Cluster, operation: str, target: str, says: str, tmp_path: Path
) -> None:
    with two(cluster) as (ref, there, heard):
        cluster.to[operation] = there.replace("127.0.0.1", "localhost") if target == "other" else target
        with pytest.raises(LoraCliError, match=says) as caught:
            brought(ref, settings(tmp_path, Policy(allow_hosts=("127.0.0.1",))))
        assert not heard
        assert "hunter2" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest", "http://100.100.100.200/", "http://[fe80::1]/"])
def test_no_name_node_sends_us_to_the_credentials_of_a_cloud(cluster: Cluster, target: str, tmp_path: Path) -> None:
    with two(cluster) as (ref, _, _):
        cluster.to["OPEN"] = target
        with pytest.raises(Refused, match="cloud's credentials"):
            brought(ref, settings(tmp_path))


def test_a_data_node_sends_us_nowhere(cluster: Cluster, tmp_path: Path) -> None:
    with two(cluster) as (ref, there, heard), answering(lambda _: (307, b"", {"Location": there})) as between:
        cluster.to["OPEN"] = between
        with pytest.raises(Refused, match="redirects again"):
            brought(ref, settings(tmp_path))
        assert not heard


def test_an_open_network_does_not_lead_into_a_private_one(tmp_path: Path) -> None:
    open_network = Http("http://namenode.example:9870/webhdfs/v1", 5, Retries(0), bounds=bounds_of(settings(tmp_path)))
    elsewhere = "http://elsewhere.example/x"
    for address in ("10.0.0.1", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1"):
        with pytest.raises(Refused):
            redirect_guard(open_network, "8.8.8.8", open_network.endpoint, elsewhere, "x")(address)
    redirect_guard(open_network, "8.8.8.8", open_network.endpoint, elsewhere, "x")("9.9.9.9")
    redirect_guard(open_network, "10.0.0.1", open_network.endpoint, elsewhere, "x")("10.0.0.2")


@pytest.mark.parametrize("more", ["", ", anonymous: true"])
def test_a_bucket_of_google_that_only_a_manifest_names_sends_us_nowhere(tmp_path: Path, more: str) -> None:
    heard: list[str] = []

    def hear(request: BaseHTTPRequestHandler) -> Reply:
        heard.append(request.path)
        return 404, b"", {}

    with answering(hear) as there, answering(lambda _: (307, b"", {"Location": f"{there}/x"})) as here:
        machine = Machine(tmp_path)
        (tmp_path / "set.yaml").write_text(
            "apiVersion: lora-cli/v1\nkind: AdapterSet\n"
            f"sources:\n  - {{match: 'gs://*', endpoint_url: '{here}'{more}}}\n"
            "adapters:\n  - {name: x, source: 'gs://bucket/x'}\n"
        )
        policy = "apiVersion: lora-cli/v1\nkind: Policy\nallow_hosts: ['127.0.0.1']\n"
        (tmp_path / "policy.yaml").write_text(policy)
        for extra in ([], ["--policy", "policy.yaml"]):
            assert machine.run("fetch", "-f", "set.yaml", *extra, GOOGLE_SKIP_SIGNATURE="true") == 1
            assert "trusted_endpoints" in machine.said[-1]
    assert not heard


def test_a_share_does_not_refer_us_to_another_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import smbclient

    monkeypatch.setitem(fsspec.config.conf, "smb", {"username": "alice", "password": SECRET})
    smbclient.ClientConfig(skip_dfs=False)
    with pytest.raises(LoraCliError):
        open_source("smb", settings(tmp_path)).resolve(AdapterRef("smb", "127.0.0.1:9/share/x"))
    assert smbclient.ClientConfig().skip_dfs
