"""Servers that are asked through a library send it where it must not go: to another host, or into a private network."""

from pathlib import Path

import pytest

from lora_cli.errors import Refused
from lora_cli.settings import Settings
from lora_cli.sources.http import Http, redirect_guard
from lora_cli.sources.retries import Retries
from lora_cli.sources.ssrf_guard import allows_private


def test_an_open_network_does_not_lead_into_a_private_one(tmp_path: Path) -> None:
    open_network = Http("http://server.example:9870/x", 5, Retries(0), private=allows_private(Settings(tmp_path)))
    elsewhere = "http://elsewhere.example/x"
    for address in ("10.0.0.1", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1"):
        with pytest.raises(Refused):
            redirect_guard(open_network, "8.8.8.8", open_network.endpoint, elsewhere, "x")(address)
    redirect_guard(open_network, "8.8.8.8", open_network.endpoint, elsewhere, "x")("9.9.9.9")
    redirect_guard(open_network, "10.0.0.1", open_network.endpoint, elsewhere, "x")("10.0.0.2")
