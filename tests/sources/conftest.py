"""A running Hub, and an environment in which nobody is logged in."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.settings import Settings
from tests.hub_server import Hub


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "LORA_CLI"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def settings(hub: Hub, tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache", hub_endpoint=hub.endpoint, timeout_s=5, retries=2)
