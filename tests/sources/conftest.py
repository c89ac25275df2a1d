"""A running Hub, and the settings to ask it and all others with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.settings import Settings
from tests.hub_server import Hub
from tests.object_servers import ADMIN


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def settings(hub: Hub, tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache", hub_endpoint=hub.endpoint, timeout_s=5, retries=0)


def trust_host(server: tuple[str, Path], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user of that SFTP server has at home: its key among the known hosts, and who they are for fsspec."""
    import fsspec.config
    import paramiko

    place, folder = server
    host, _, port = place.partition(":")
    key = paramiko.ECDSAKey(filename=str(folder.parent / "host_key"))
    (home / ".ssh").mkdir()
    (home / ".ssh" / "known_hosts").write_text(f"[{host}]:{port} {key.get_name()} {key.get_base64()}\n")
    monkeypatch.setenv("HOME", str(home))
    options = {"username": ADMIN[0], "password": ADMIN[1], "allow_agent": False, "look_for_keys": False}
    monkeypatch.setitem(fsspec.config.conf, "sftp", options)
