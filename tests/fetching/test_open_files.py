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


@pytest.fixture
def poisoned(tmp_path: Path) -> Path:
    """An adapter that only its values betray."""
    name = f"base_model.model.{Q_PROJ}.lora_A.weight"
    return write_adapter(tmp_path / "nan", config=ONE_LAYER, tensors={name: np.full((4, 64), np.nan, dtype=np.float32)})


@pytest.fixture
def argv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    base = write_base_config(tmp_path / "base")
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    return ["validate", "--base", str(base)]


def test_values_are_judged_wherever_they_are(
    poisoned: Path, argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        commit = hub.add("acme/nan", poisoned)
        assert main([*argv, "acme/nan"]) == 1
        assert "LC501" in capsys.readouterr().out

        before = len(hub.requests)
        assert main([*argv, f"acme/nan@{commit}"]) == 1
        assert len(hub.requests) == before

        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert main([*argv, "acme/nan"]) == 1
        assert len(hub.requests) == before

        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        capsys.readouterr()
        assert main([*argv, "acme/nan"]) == 3
        said = " ".join(capsys.readouterr().out.split())
        assert f"is not cached from http://127.0.0.1:9, only from {hub.endpoint}, and offline mode is on" in said


def test_the_digest_is_that_of_a_fetch(
    poisoned: Path, argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def digest(*words: str) -> object:
        capsys.readouterr()
        main([*argv, *words, "--format", "json"])
        return json.loads(capsys.readouterr().out)["adapters"][0]["digest"]

    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add("acme/nan", poisoned)
        manifest = tmp_path / "set.yaml"
        manifest.write_text(
            "apiVersion: lora-cli/v1\nkind: AdapterSet\n"
            "adapters: [{name: nan, source: acme/nan}, {name: here, source: ./nan}]\n"
        )
        assert main(["inspect", "acme/nan"]) == 0
        assert "snapshot" not in capsys.readouterr().out
        validated = digest("acme/nan")
        assert main(["inspect", "acme/nan"]) == 0
        assert f"snapshot    {validated}" in capsys.readouterr().out
        assert main(["fetch", "-f", str(manifest), "--format", "json"]) == 0
        fetched, local = (one["sha256"] for one in json.loads(capsys.readouterr().out)["adapters"])

        assert validated == fetched
        assert digest("-f", str(manifest), "nan") == fetched
        assert digest("-f", str(manifest), "here") == local
        assert digest(str(poisoned)) is None
        shutil.rmtree(tmp_path / "cache")
        assert digest("-f", str(manifest), "nan") == fetched


def test_a_newer_commit_is_judged_from_its_origin(
    poisoned: Path, argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add("acme/sql", poisoned)
        assert main(["fetch", "acme/sql"]) == 0
        hub.add("acme/sql", write_adapter(tmp_path / "mended", config=ONE_LAYER, seed=1))
        capsys.readouterr()

        assert main([*argv, "acme/sql"]) == 0


def test_what_is_not_here_is_not_judged_offline(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    assert main([*argv, "acme/nowhere"]) == 3
    assert main(["validate", "acme/nowhere", "--base", "nobody/base"]) == 3
    assert "a folder or a config.json on this disk" in capsys.readouterr().err
