"""The limits of ``lora-cli fetch``: for what comes and for what is here."""

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


def test_a_limit_holds_for_what_is_in_the_cache_too(
    sql: Path, chat: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", "./sql", "./chat"]) == 0
    capsys.readouterr()
    with monkeypatch.context() as limited:
        limited.setenv("LORA_CLI_MAX_BYTES", "10")
        assert main(["fetch", "./sql"]) == 1
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
    ("name", "value", "code"),
    [("MAX_FILES", "1", 1), ("CACHE_BUDGET", "10", 1), ("KEEP_FREE", "1000000TB", 6)],
)
def test_a_limit_that_is_reached_names_its_variable(
    sql: Path, name: str, value: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"LORA_CLI_{name}", value)
    assert main(["fetch", str(sql)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{name.lower()} (LORA_CLI_{name})" in err


def test_gc_keeps_to_the_budget_of_the_environment(
    sql: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", str(sql)]) == 0
    monkeypatch.setenv("LORA_CLI_CACHE_BUDGET", "10")
    capsys.readouterr()
    assert main(["cache", "gc", "--max-bytes", "1GiB", "--dry-run"]) == 0
    assert "adapter" not in capsys.readouterr().out
    assert main(["cache", "gc"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"freed .*: 1 adapter, 2 blobs", out)
    assert err == ""
