"""A set of two adapters of a Hub, its lock, and ``fetch`` of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.documents.manifest import read_lock
from lora_cli.refs.request import LockedAdapter
from tests.hub_content import Content
from tests.hub_server import Hub

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LOCK = Path("set.lock.yaml")


def files(number: int) -> dict[str, Content]:
    return {CONFIG: {"r": number}, WEIGHTS: bytes([number]) * 1000, "README.md": "read"}


def set_of(*entries: str, base: str = "") -> None:
    named = f"base: {base}\n" if base else ""
    lines = "".join(f"  - {{name: {entry.split('=')[0]}, source: {entry.split('=')[1]}}}\n" for entry in entries)
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\n{named}adapters:\n{lines}")


def locked(name: str) -> LockedAdapter:
    return read_lock(LOCK)[name]


def forget_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", "empty")


def hub_of_two(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with two adapters, and a set that names them in the current folder, whose lock comes with a fetch."""
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    monkeypatch.setenv("LORA_CLI_TIMEOUT", "5s")
    with Hub() as hub:
        hub.add("org/sql", files(1))
        hub.add("org/chat", files(2))
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        set_of("sql=org/sql", "chat=org/chat@main")
        yield hub
