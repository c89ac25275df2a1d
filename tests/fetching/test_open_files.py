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


def test_values_and_digest_are_those_of_a_fetch_wherever_they_are(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def validate(*words: str) -> int:
        return main(["validate", "--base", "base", *words])

    def digest(*words: str) -> object:
        capsys.readouterr()
        main([*words, "--format", "json"])
        (found,) = json.loads(capsys.readouterr().out)["adapters"]
        return found["sha256" if "fetch" in words else "digest"]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", "cache")
    write_base_config(tmp_path / "base")
    tensors = {f"base_model.model.{Q_PROJ}.lora_A.weight": np.full((4, 64), np.nan, dtype=np.float32)}
    commit = hub.add("acme/nan", write_adapter(tmp_path / "nan", config=ONE_LAYER, tensors=tensors))
    assert validate("acme/nan", "--offline") == 3
    assert validate("acme/nan") == 1
    assert "LC501" in capsys.readouterr().out
    hub.requests.clear()
    assert validate(f"acme/nan@{commit}") == validate("acme/nan", "--offline") == 1
    assert hub.requests == []
    entry = "{name: nan, source: acme/nan}"
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{entry}]\n")
    validated = digest("validate", "--base", "base", "acme/nan")
    assert main(["inspect", "acme/nan"]) == 0
    assert f"snapshot    {validated}" in capsys.readouterr().out
    assert validated == digest("fetch", "-f", "set.yaml") == digest("validate", "-f", "set.yaml")
    shutil.rmtree("cache")
    assert digest("validate", "-f", "set.yaml") == validated
    hub.add("acme/nan", write_adapter(tmp_path / "mended", config=ONE_LAYER, seed=1))
    assert validate("acme/nan") == 0
