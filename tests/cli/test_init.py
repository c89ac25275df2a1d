"""``lora-cli init``: what it writes is a manifest that the other commands take."""

from pathlib import Path

import pytest
import yaml

from lora_cli.cli.main import main
from lora_cli.documents.manifest import read_manifest
from tests.hf_variables import set_variables
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two adapters of rank 4 and 12, whose configs name the base beside them, and a training run."""
    monkeypatch.chdir(tmp_path)
    write_base_config(tmp_path / "base")
    config = {"base_model_name_or_path": "acme/tiny"}
    write_adapter(tmp_path / "all/sql", modules=llama_modules(), config=config)
    write_adapter(tmp_path / "all/chat v2", modules=llama_modules(), r=12, config=config)
    for number in (5, 10):
        write_adapter(tmp_path / f"all/run/checkpoint-{number}", modules=llama_modules(), config=config)
    return tmp_path


def test_a_folder_of_adapters_becomes_a_set_that_validates(folder: Path, capsys: Capture) -> None:
    assert main(["init", "all", "--engine", "vllm"]) == 0
    assert capsys.readouterr().err == "wrote set.yaml with 3 adapters; next: lora-cli fetch -f set.yaml\n"
    manifest = read_manifest(Path("set.yaml"))
    assert str(manifest.base) == "hf://acme/tiny"
    assert manifest.engine is not None
    assert (manifest.engine.name, manifest.engine.max_lora_rank, manifest.engine.max_loras) == ("vllm", 16, 3)
    assert [(entry.name, entry.written) for entry in manifest.adapters] == [
        ("chat-v2", "./all/chat v2"),
        ("run", "./all/run/checkpoint-latest"),
        ("sql", "./all/sql"),
    ]
    assert main(["validate", "-f", "set.yaml", "--base", "base"]) == 0
    assert main(["init", "all"]) == 2
    assert "set.yaml already exists" in capsys.readouterr().err


def test_paths_are_those_from_the_manifest_and_nothing_is_named_twice(folder: Path, capsys: Capture) -> None:
    (folder / "sets").mkdir()
    write_adapter(folder / "sql", config={"base_model_name_or_path": "acme/other"})
    argv = ["all/sql", str(folder / "all/sql"), "sql/", "--base", "base", "-o", "sets/one.yaml"]
    assert main(["init", *argv]) == 0
    written = yaml.safe_load(Path("sets/one.yaml").read_text())
    assert written["base"] == "../base"
    assert written["adapters"] == [
        {"name": "sql", "source": "../all/sql"},
        {"name": "sql-2", "source": "../sql"},
    ]
    assert main(["fetch", "-f", "sets/one.yaml"]) == 0


def test_a_rank_that_the_engine_never_takes_leaves_the_others_to_be_judged(folder: Path, capsys: Capture) -> None:
    write_adapter(folder / "all/huge", modules=llama_modules(), r=600)
    assert main(["init", "all", "--engine", "vllm@0.33"]) == 0
    assert "max_lora_rank: 512" in Path("set.yaml").read_text()
    capsys.readouterr()
    assert main(["validate", "-f", "set.yaml", "--base", "base"]) == 1
    assert "4 adapters: 3 ok, 1 failed" in " ".join(capsys.readouterr().out.split())


def test_what_is_no_adapter_is_told_and_left_out(folder: Path, capsys: Capture) -> None:
    assert main(["init", "base"]) == 1
    assert "base: there is no adapter_config.json" in capsys.readouterr().err
    assert not Path("set.yaml").exists()
    assert main(["init", "all", "./gone"]) == 3
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()][:2] == ["left out", "hint"]
    assert yaml.safe_load(Path("set.yaml").read_text())["adapters"]


def test_repositories_keep_their_scheme_and_revision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub() as hub:
        hub.add("acme/sql", {path.name: path.read_bytes() for path in (folder / "all/sql").iterdir()})
        set_variables(monkeypatch, HF_ENDPOINT=hub.endpoint, HF_HOME=str(folder / "home"))
        assert main(["init", "acme/sql@main", "-o", "hub.yaml"]) == 0
    assert yaml.safe_load(Path("hub.yaml").read_text())["adapters"] == [{"name": "sql", "source": "hf://acme/sql@main"}]
