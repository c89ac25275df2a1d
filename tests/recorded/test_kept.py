"""What earlier versions wrote is read by this one: a cache, a lock, documents, a trace and a result."""

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.recorded.machine import WORLD

KEPT = Path(__file__).parent / "kept"
SQL = "53db58ee7d4a6cbcdcc045a2990734e606718340dc9e00288bd70008438825f3"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the kept files, the world's adapters and bases, and the kept cache; nobody can be asked."""
    shutil.copytree(WORLD, tmp_path, dirs_exist_ok=True)
    shutil.copytree(KEPT, tmp_path, dirs_exist_ok=True)
    with tarfile.open(tmp_path / "cache.tar") as kept:
        kept.extractall(tmp_path, filter="fully_trusted")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    monkeypatch.setenv("LORA_CLI_OFFLINE", "1")
    return tmp_path


def told(capsys: Capture, *argv: str) -> Any:
    capsys.readouterr()
    assert main([*argv, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_cache_is_whole_and_says_what_it_has(capsys: Capture) -> None:
    snapshots = {one["sha256"]: one for one in told(capsys, "cache", "ls")["snapshots"]}
    assert snapshots.keys() >= {SQL}
    assert {one["ref"] for one in snapshots[SQL]["references"]} >= {"hf://acme/sql"}
    assert told(capsys, "cache", "verify")["rotten"] == []


def test_a_cache_gives_what_was_fetched_into_it(capsys: Capture) -> None:
    (adapter,) = told(capsys, "fetch", "acme/sql")["adapters"]
    assert adapter["sha256"] == SQL
    assert adapter["cached"]
    assert Path(adapter["directory"], "adapter_model.safetensors").is_file()


def test_a_manifest_and_its_lock_hold(here: Path, capsys: Capture) -> None:
    fetched = told(capsys, "fetch", "-f", "set.yaml", "--locked")
    assert [one["name"] for one in fetched["adapters"]] == ["sql", "chat", "half"]
    lock = (here / "set.lock.yaml").read_bytes()
    assert main(["fetch", "-f", "set.yaml"]) == 0
    assert (here / "set.lock.yaml").read_bytes() == lock == (KEPT / "set.lock.yaml").read_bytes()


def test_a_policy_allows_and_refuses_what_it_did(capsys: Capture) -> None:
    assert main(["fetch", "acme/sql", "--policy", "policy.yaml"]) == 1
    commit = told(capsys, "fetch", "acme/sql")["adapters"][0]["revision"]
    assert main(["fetch", f"acme/sql@{commit}", "--policy", "policy.yaml"]) == 0
    assert main(["fetch", "adapters/half", "--policy", "policy.yaml"]) == 1


def test_a_settings_file_is_obeyed(capsys: Capture) -> None:
    assert main(["fetch", "acme/sql", "--config", "config.toml", "--max-bytes", "1KiB"]) == 1
    assert main(["fetch", "acme/sql", "--config", "config.toml"]) == 0
    assert "progress" not in capsys.readouterr().err


def test_a_baseline_knows_its_findings(capsys: Capture) -> None:
    argv = ["validate", "-f", "set.yaml", "--fail-on", "warning"]
    assert main([*argv, "--baseline", "known.json"]) == 0
    assert main(argv) == 1


def test_a_trace_replays_to_the_kept_result(here: Path, capsys: Capture) -> None:
    kept = json.loads((here / "result.json").read_text())
    argv = ["serve-bench", "--simulate", "--trace", "trace.jsonl", "--eviction", "lru,lfu"]
    again = told(capsys, *argv, "--max-loras", "2", "--max-cpu-loras", "4")
    assert len(kept["metrics"]) > 10
    assert again["metrics"] == kept["metrics"]


def test_a_result_is_compared_with(capsys: Capture) -> None:
    argv = ["serve-bench", "--simulate", "--trace", "trace.jsonl", "--eviction", "lru,lfu"]
    argv += ["--max-loras", "2", "--max-cpu-loras", "4", "--baseline", "result.json"]
    assert {one["verdict"] for one in told(capsys, *argv)["baseline"]} == {"same"}
