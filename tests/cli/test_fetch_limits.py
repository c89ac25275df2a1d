"""The limits of ``lora-cli fetch``: for what comes and for what is here, from flags and from the environment."""

import json
import re
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.making import write_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SET = """apiVersion: lora-cli/v1
kind: AdapterSet
adapters:
  - {name: a, source: ./sql}
  - {name: b, source: ./chat}
"""


pytestmark = pytest.mark.usefixtures("a_folder_and_a_cache_of_its_own")


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "sql", seed=1)


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "chat", seed=2)


def test_a_limit_holds_for_what_is_in_the_cache_too(sql: Path, chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "./sql", "./chat"]) == 0
    capsys.readouterr()
    assert main(["fetch", "./sql", "--max-bytes", "10"]) == 1
    assert "but 10 are allowed" in capsys.readouterr().err
    Path("set.yaml").write_text(SET + "policy: {max_bytes: 10}\n")
    assert main(["fetch", "-f", "set.yaml"]) == 1
    assert capsys.readouterr().out == ""


def test_the_bytes_that_an_adapter_does_not_need_are_told(sql: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sql / "checkpoint-10").mkdir()
    for name, count in (("optimizer.pt", 2000), ("model.safetensors", 1000), ("checkpoint-10/optimizer.pt", 96)):
        (sql / name).write_bytes(b"x" * count)
    assert main(["fetch", "./sql", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    (found,) = json.loads(out)["adapters"]
    assert found["left_out"] == {"files": 3, "bytes": 3096}
    assert "3.0 KiB in 3 files left out" in err
    assert {file["path"] for file in found["files"]} == {CONFIG, WEIGHTS}
    assert main(["fetch", "./sql", "--include", "*.pt"]) == 0
    assert "1000 B in 1 file left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (["--max-files", "1"], 1, "--max-files"),
        (["--max-total-bytes", "10"], 1, "--max-total-bytes"),
        (["--cache-budget", "10"], 1, "--cache-budget"),
        (["--keep-free", "1000000TB"], 6, "--keep-free"),
        (["--keep-free", "much"], 2, "is not a size"),
        (["--adapter-timeout", "0s"], 2, "is not above 0"),
    ],
)
def test_a_limit_that_is_reached_names_the_option(
    sql: Path, words: list[str], code: int, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", str(sql), *words]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert hint in err


def test_limits_come_from_the_environment_too(
    sql: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_BUDGET", "10")
    assert main(["fetch", str(sql)]) == 1
    assert main(["fetch", str(sql), "--cache-budget", "1GiB"]) == 0
    capsys.readouterr()
    assert main(["cache", "gc"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"freed .*: 1 adapter, 2 blobs", out)
    assert err == ""
