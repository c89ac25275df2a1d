"""Servers that are asked through a library send it where it must not go: to another host, or into a private network."""

from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lora_cli.errors import Refused
from lora_cli.settings import Settings
from lora_cli.sources.http import Http, redirect_guard
from lora_cli.sources.retries import Retries
from lora_cli.sources.ssrf_guard import allows_private
from tests.answering import Reply, answering
from tests.planted import Machine


def test_an_open_network_does_not_lead_into_a_private_one(tmp_path: Path) -> None:
    open_network = Http("http://server.example:9870/x", 5, Retries(0), private=allows_private(Settings(tmp_path)))
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
        assert machine.run("fetch", "-f", "set.yaml", GOOGLE_SKIP_SIGNATURE="true") == 1
        assert "trusted_endpoints" in machine.said[-1]
    assert not heard
