"""The cache of the Hub's own client: found where that client finds it, and read without a network."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from lora_cli.cli.main import main
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile
from lora_cli.errors import Offline
from lora_cli.settings import Settings
from lora_cli.sources import ClientCacheSource
from lora_cli.sources.hub import HubSource
from lora_cli.sources.hub_cache import HubCache, hub_cache_folder
from lora_cli.sources.local import LocalSource
from tests.hub_content import Content
from tests.hub_server import Hub
from tests.making import Q_PROJ, write_adapter, write_base_config

WEIGHTS = bytes(range(256)) * 9000
FILES: dict[str, Content] = {"adapter_config.json": b"{}", "adapter_model.safetensors": WEIGHTS}
ACME = AdapterRef("hf", "acme/sql-lora")


def test_the_hub_may_hold_files_here_and_a_folder_does_not() -> None:
    assert isinstance(HubSource(Settings(Path("/nowhere"))), ClientCacheSource)
    assert not isinstance(LocalSource(), ClientCacheSource)


def test_a_cache_that_is_not_there_knows_nothing(tmp_path: Path) -> None:
    cache = HubCache(tmp_path / "nowhere")
    assert cache.revision(ACME) is None
    with cache.blob("acme/sql-lora", RemoteFile("x", 1, "0" * 64)) as descriptor:
        assert descriptor is None
    with cache.blob("acme/sql-lora", RemoteFile("x", 1)) as descriptor:
        assert descriptor is None


def test_ranges_are_read_offline(hub: Hub, settings: Settings) -> None:
    hub.add("acme/sql-lora", FILES)
    folder = hub_cache_folder()
    for name in FILES:
        hf_hub_download("acme/sql-lora", name, endpoint=hub.endpoint, cache_dir=folder, token=False)
    before = hub.connections
    source = HubSource(replace(settings, offline=True))
    revision = source.resolve(ACME)
    assert not revision.whole
    file = revision.file("adapter_model.safetensors")
    assert file is not None
    for start, stop in ((0, None), (7, 9), (len(WEIGHTS) - 1, len(WEIGHTS) + 9), (len(WEIGHTS), None), (9, 3)):
        chunks = list(source.read(revision, file, start, stop))
        assert b"".join(chunks) == WEIGHTS[start:stop]
        assert all(0 < len(chunk) <= 1 << 20 for chunk in chunks)
    with pytest.raises(Offline, match=r"README\.md is not cached"):
        list(source.read(revision, RemoteFile("README.md", 1, git_sha1="0" * 40), 0, None))
    assert hub.connections == before


def test_offline_an_adapter_and_its_base_are_judged_from_there(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    hub.add("acme/sql-lora", write_adapter(tmp_path / "sql", modules={Q_PROJ: (64, 64)}))
    hub.add("acme/base", write_base_config(tmp_path / "base").parent)
    folder = hub_cache_folder()
    for id, name in (
        ("acme/sql-lora", "adapter_config.json"),
        ("acme/sql-lora", "adapter_model.safetensors"),
        ("acme/base", "config.json"),
    ):
        hf_hub_download(id, name, endpoint=hub.endpoint, cache_dir=folder, token=False)
    before = hub.connections
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    main(["validate", "acme/sql-lora", "--base", "acme/base", "--format", "json"])
    (result,) = json.loads(capsys.readouterr().out)["adapters"]
    assert result["applied"] == {"matched": 1, "total": 1}
    assert hub.connections == before
