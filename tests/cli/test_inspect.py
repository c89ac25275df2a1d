"""``lora-cli inspect``: what an adapter is, from its header alone."""

import json
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config

Q, K = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj"


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    """Two ranks and two scalings, as the config says."""
    return str(
        write_adapter(
            tmp_path / "mixed",
            modules={Q: (64, 64), K: (64, 32)},
            ranks={K: 2},
            dtype="bfloat16",
            config={"rank_pattern": {"k_proj": 2}, "peft_version": "0.21.2"},
        )
    )


def test_it_says_what_the_adapter_is(mixed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", mixed]) == 0

    lines = {line.split(None, 1)[0]: line.split(None, 1)[1] for line in capsys.readouterr().out.splitlines()[1:]}
    assert lines["format"] == "PEFT LoRA, safetensors"
    assert lines["base"] == "tiny/base at 5f0b02c75b57c5855da9ae460ce51323ea669d8a"
    assert lines["rank"] == "4 (1 module), 2 (1 module: k_proj)"
    assert lines["scaling"] == "2 (1 module), 4 (1 module: k_proj)"
    assert lines["targets"] == "k_proj, q_proj (2 modules)"
    assert lines["layers"] == "0-1 (2)"
    assert lines["dtype"] == "BF16"
    assert lines["parameters"] == "704"
    assert lines["features"] == "rank_pattern"
    assert lines["PEFT"] == "0.21.2"


def test_with_a_base_it_says_what_applies_and_what_is_odd(
    mixed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_base_config(tmp_path / "base", num_hidden_layers=1)

    assert main(["inspect", mixed, "--base", str(base)]) == 0

    out = capsys.readouterr().out
    assert "applies     1/2 modules" in out
    assert "error LC313: 1 module is in layers that the base does not have" in out


def test_as_json_numbers_are_numbers(mixed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", mixed, "--format", "json"]) == 0

    document = json.loads(capsys.readouterr().out)
    inspection = document["adapters"][0]["inspection"]
    assert document["schema"] == "lora_cli/inspect/1"
    assert inspection["ranks"] == {"4": 1, "2": 1}
    assert inspection["parameters"] == 704
    assert inspection["weight_bytes"] == 1408


def test_a_remote_adapter_is_known_without_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_adapter(tmp_path / "sql", modules=llama_modules())
    with Hub() as hub:
        commit = hub.add("acme/sql", {path.name: path.read_bytes() for path in folder.iterdir()})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert main(["inspect", "hf://acme/sql"]) == 0

    out = capsys.readouterr().out
    assert f"revision    {commit}" in out
    assert "sha256" in out
    assert "(14\n              modules)" in out


def test_what_cannot_be_read_ends_with_1_and_what_is_not_there_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = write_adapter(tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"PK")

    assert main(["inspect", str(broken)]) == 1
    assert "error LC102" in capsys.readouterr().out
    assert main(["inspect", str(broken), str(tmp_path / "gone")]) == 3


def test_a_file_that_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert main(["inspect", "org/name", "-o", str(tmp_path / "no" / "such.txt")]) == 6
        assert hub.requests == []
    assert "such.txt cannot be written: the folder does not exist" in capsys.readouterr().err


def test_an_adapter_in_the_cache_has_the_digest_of_its_snapshot(
    mixed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = ["--cache-dir", str(tmp_path / "cache")]
    assert main(["inspect", mixed, *cache]) == 0
    assert "snapshot" not in capsys.readouterr().out

    assert main(["fetch", mixed, *cache]) == 0
    digest = Path(capsys.readouterr().out.strip()).name
    assert main(["inspect", mixed, *cache]) == 0
    assert f"snapshot    {digest}" in capsys.readouterr().out
