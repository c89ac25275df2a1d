"""A set of two adapters of a Hub, its lock, and ``fetch`` of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.documents.manifest import dump_lock, read_lock
from lora_cli.refs.request import THE_BASE, LockedAdapter
from tests.hub_content import Content
from tests.hub_server import Hub

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Capture = pytest.CaptureFixture[str]


def files(number: int) -> dict[str, Content]:
    return {CONFIG: {"r": number}, WEIGHTS: bytes([number]) * 1000, "README.md": "read"}


def set_of(*entries: str, base: str = "") -> None:
    named = f"base: {base}\n" if base else ""
    lines = "".join(f"  - {{name: {entry.split('=')[0]}, source: {entry.split('=')[1]}}}\n" for entry in entries)
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\n{named}adapters:\n{lines}")


def locked(name: str) -> LockedAdapter:
    return read_lock(Path("set.lock.yaml"))[name]


def rewrite(change: Callable[[LockedAdapter], LockedAdapter]) -> None:
    lock = read_lock(Path("set.lock.yaml"))
    changed = {name: one if name == THE_BASE else change(one) for name, one in lock.items()}
    Path("set.lock.yaml").write_text(dump_lock({one.name: one for one in changed.values()}))


def fetch(*argv: str) -> int:
    return main(["fetch", "-f", "set.yaml", *argv])


def forget_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "empty"))


def hub_of_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with two adapters, and a set that names them in the current folder, whose lock comes with a fetch."""
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    monkeypatch.setenv("LORA_CLI_TIMEOUT", "5s")
    monkeypatch.chdir(tmp_path)
    with Hub() as hub:
        hub.add("org/sql", files(1))
        hub.add("org/chat", files(2))
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        set_of("sql=org/sql", "chat=org/chat@main")
        yield hub
