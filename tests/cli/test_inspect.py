"""``lora-cli inspect``: what an adapter is, from its header alone."""

from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.hub_server import Hub
from tests.making import write_adapter

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


def test_a_file_that_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert main(["inspect", "org/name", "-o", str(tmp_path / "no" / "such.txt")]) == 6
        assert hub.requests == []
    assert "such.txt cannot be written: the folder does not exist" in capsys.readouterr().err
