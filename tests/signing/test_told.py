"""It is told who signed an adapter, if a policy requires that."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.making import llama_modules, write_adapter, write_base
from tests.signing.pki import key_pair, sign

HEAD = "apiVersion: lora-cli/v1\nkind: Policy\n"
SHOW, INSPECT = ["cache", "show", "./sql"], ["inspect", "./sql"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signed adapter in the cache, and a policy that requires it."""
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "sql", modules=llama_modules())
    write_base(tmp_path / "base")
    key_pair(tmp_path, "other")
    sign(tmp_path / "sql", key_pair(tmp_path, "acme").private)
    require(keys=["acme.pub"])
    assert main(["fetch", "./sql", "--policy", "policy.yaml"]) == 0


def require(**entry: list[str]) -> None:
    Path("policy.yaml").write_text(f"{HEAD}require_signature: [{json.dumps(entry)}]\n")


def told(argv: list[str], capsys: pytest.CaptureFixture[str], *more: str) -> tuple[str, Any]:
    """What the terminal and JSON say."""
    capsys.readouterr()
    assert main([*argv, *more]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert main([*argv, *more, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (one,) = document["snapshots"][0]["references"] if argv is SHOW else document["adapters"]
    return words, one.get("provenance")


@pytest.mark.parametrize("argv", [SHOW, INSPECT], ids=["show", "inspect"])
def test_who_signed_it(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words, provenance = told(argv, capsys, "--policy", "policy.yaml")
    assert "signed the key acme.pub" in words
    assert provenance == {"signers": ["the key acme.pub"], "refusal": ""}


@pytest.mark.parametrize("argv", [SHOW, INSPECT], ids=["show", "inspect"])
def test_what_no_policy_verifies_is_not_told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words, provenance = told(argv, capsys)
    assert "signed" not in words
    assert provenance is None
    require(sources=["hf://*"], keys=["acme.pub"])
    assert told(argv, capsys, "--policy", "policy.yaml")[1] is None


def test_a_snapshot_that_a_policy_refuses_is_shown_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    require(keys=["other.pub"])
    words, provenance = told(SHOW, capsys, "--policy", "policy.yaml")
    assert "refused" in words
    assert "the key other.pub did not make it" in words
    assert provenance["signers"] == []
    assert "the key other.pub did not make it" in provenance["refusal"]


def test_files_that_globs_selected_are_not_verified(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "rm", "--all", "--yes"]) == 0
    assert main(["fetch", "./sql", "--include", "*.txt"]) == 0
    assert told(SHOW, capsys, "--policy", "policy.yaml")[1] is None


@pytest.mark.slow
def test_warm_says_who_signed_it(capsys: pytest.CaptureFixture[str]) -> None:
    warm = ["warm", "./sql", "--base", "base", "--once", "--device", "cpu", "--policy", "policy.yaml"]
    capsys.readouterr()
    assert main([*warm, "--format", "json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["adapters"]
    assert report["provenance"]["signers"] == ["the key acme.pub"]
    assert main(warm) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "signed by the key acme.pub" in words
