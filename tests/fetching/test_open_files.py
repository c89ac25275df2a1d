"""What the cache has of an adapter is judged from there: values too, offline too, a pinned one without a request."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lora_cli.cli.main import main
from tests.hub_server import Hub
from tests.making import Q_PROJ, write_adapter, write_base_config

ONE_LAYER = {"layers_to_transform": [0]}
SET = "apiVersion: lora-cli/v1\nkind: AdapterSet\n"
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def commit(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    """That of acme/nan: an adapter that only its values betray."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", "cache")
    write_base_config(tmp_path / "base")
    name = f"base_model.model.{Q_PROJ}.lora_A.weight"
    tensors = {name: np.full((4, 64), np.nan, dtype=np.float32)}
    return hub.add("acme/nan", write_adapter(tmp_path / "nan", config=ONE_LAYER, tensors=tensors))


def validate(*words: str) -> int:
    return main(["validate", "--base", "base", *words])


def test_values_are_judged_wherever_they_are(
    hub: Hub, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert validate("acme/nan") == 3
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert validate("acme/nan") == 1
    assert "LC501" in capsys.readouterr().out
    hub.requests.clear()
    assert validate(f"acme/nan@{commit}") == 1
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert validate("acme/nan") == 1
    assert hub.requests == []
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    capsys.readouterr()
    assert validate("acme/nan") == 3
    said = " ".join(capsys.readouterr().out.split())
    assert "is not cached and offline mode is on" in said
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    hub.add("acme/nan", write_adapter(tmp_path / "mended", config=ONE_LAYER, seed=1))
    assert validate("acme/nan") == 0


def test_the_digest_is_that_of_a_fetch(commit: str, capsys: Captured) -> None:
    def found(*words: str) -> list[dict[str, object]]:
        capsys.readouterr()
        main([*words, "--format", "json"])
        adapters: list[dict[str, object]] = json.loads(capsys.readouterr().out)["adapters"]
        return adapters

    def digest(*words: str) -> object:
        return found("validate", "--base", "base", *words)[0]["digest"]

    Path("set.yaml").write_text(f"{SET}adapters: [{{name: nan, source: acme/nan}}, {{name: here, source: ./nan}}]\n")
    assert main(["inspect", "acme/nan"]) == 0
    assert "snapshot" not in capsys.readouterr().out
    validated = digest("acme/nan")
    assert main(["inspect", "acme/nan"]) == 0
    assert f"snapshot    {validated}" in capsys.readouterr().out
    fetched, local = (one["sha256"] for one in found("fetch", "-f", "set.yaml"))
    assert validated == fetched
    assert digest("-f", "set.yaml", "nan") == fetched
    assert digest("-f", "set.yaml", "here") == local
    assert digest("./nan") is None
    shutil.rmtree("cache")
    assert digest("-f", "set.yaml", "nan") == fetched
